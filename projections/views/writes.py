"""The four writes that an event can make to a view, and the values that documents share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from projections.views.catalog import MongoView

Document = dict[str, Any]


class Insert(Struct, frozen=True):
    """A new document. The view has none with this `_id`."""

    view: MongoView
    key: str
    document: Document


class Update(Struct, frozen=True):
    """Changes a document that exists: `set` assigns fields, `add` increments numbers, `unset` removes fields. No field is in two of these."""

    view: MongoView
    key: str
    set: Document
    add: dict[str, int] = {}
    unset: tuple[str, ...] = ()


class Add(Struct, frozen=True):
    """Increments numbers of a document, which starts as `document` if it does not exist. `position` is the event's position."""

    view: MongoView
    key: str
    document: Document
    add: dict[str, int]
    position: int


class Remove(Struct, frozen=True):
    """Removes every document of a conversation."""

    view: MongoView
    tenant: str
    conversation_id: str


Write = Insert | Update | Add | Remove


def document_key(tenant: str, object_id: str) -> str:
    """The `_id` of a document. `object_id`: the id of the conversation, item, response or feedback that it shows, or the keys of a usage total without the tenant."""
    return f"{tenant}:{object_id}"


def microseconds(moment: datetime) -> int:
    """A time as documents hold it: microseconds since 1970, UTC."""
    return round(moment.timestamp() * 1_000_000)


def metadata_pairs(metadata: Mapping[str, str]) -> list[list[str]]:
    """Metadata as [name, value] pairs. A client's name cannot be a field name, because `$ref`, `$id` and dots have a meaning in field names."""
    return [[name, value] for name, value in metadata.items()]
