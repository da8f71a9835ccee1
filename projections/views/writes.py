"""The four writes that an event can make to a view, and the values that documents share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from projections.views.catalog import MongoView

Document = dict[str, Any]


class Insert(Struct, frozen=True):
    view: MongoView
    key: str
    document: Document


class Update(Struct, frozen=True):
    """No field is in two of `set`, `add` and `unset`."""

    view: MongoView
    key: str
    set: Document
    add: dict[str, int] = {}
    unset: tuple[str, ...] = ()


class Add(Struct, frozen=True):
    """The document starts as `document` if it does not exist. `position`: the event's position."""

    view: MongoView
    key: str
    document: Document
    add: dict[str, int]
    position: int


class Remove(Struct, frozen=True):
    view: MongoView
    tenant: str
    conversation_id: str


Write = Insert | Update | Add | Remove


def document_key(tenant: str, object_id: str) -> str:
    """A document's `_id`. `object_id`: the id of what the document shows, or the keys of a usage total."""
    return f"{tenant}:{object_id}"


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return round(moment.timestamp() * 1_000_000)


def metadata_pairs(metadata: Mapping[str, str]) -> list[list[str]]:
    """[name, value] pairs. A client's name cannot be a field name, because `$ref`, `$id` and dots have a meaning there."""
    return [[name, value] for name, value in metadata.items()]
