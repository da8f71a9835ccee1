"""The differences that verification reports. They never show content, only its hash and its length."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from context.copies import SNAPSHOT_FIELDS, VIEW_FIELDS

DifferenceKind = Literal[
    "missing", "extra", "different", "stale", "behind", "chain", "version", "time", "tenant", "unreadable", "parked"
]

_CONTENT_FIELDS = frozenset({"error", "items", "joined", "labels"}).union(SNAPSHOT_FIELDS, *VIEW_FIELDS.values())

_MAX_LENGTH = 80


class Difference(Struct, frozen=True, omit_defaults=True):
    """Something that does not match the log.

    `where`: a view, `log` or a table. `fields`: (expected, found) of each field that differs.
    """

    where: str
    what: DifferenceKind
    conversation_id: str | None = None
    key: str | None = None
    version: int | None = None
    fields: dict[str, tuple[str, str]] = {}
    note: str | None = None

    def __str__(self) -> str:
        version = None if self.version is None else f"version {self.version}"
        parts = [self.where, self.what, self.key or self.conversation_id, version, self.note]
        parts += [f"{name}: expected {expected}, found {found}" for name, (expected, found) in self.fields.items()]
        return "  ".join(part for part in parts if part)


def fields_that_differ(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """(expected, found) by name."""
    return {
        name: (_shown(name, expected.get(name, _ABSENT)), _shown(name, found.get(name, _ABSENT)))
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name, _ABSENT) != found.get(name, _ABSENT)
    }


def documents_that_differ(
    where: str, expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    """Both mappings are by `_id`."""
    for key in expected.keys() | found.keys():
        if key not in found:
            yield Difference(where, "missing", expected[key].get("conversation_id"), key)
        elif key not in expected:
            yield Difference(where, "extra", found[key].get("conversation_id"), key)
        elif expected[key] != found[key]:
            fields = fields_that_differ(expected[key], found[key])
            yield Difference(where, "different", found[key].get("conversation_id"), key, fields=fields)


_ABSENT: Any = object()


def _shown(name: str, value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    if value is None or name not in _CONTENT_FIELDS:
        return repr(value)[:_MAX_LENGTH]
    text = (
        value.encode("utf-8", "surrogatepass") if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr)
    )
    return f"sha256:{hashlib.sha256(text).hexdigest()[:12]} ({len(text)} bytes)"
