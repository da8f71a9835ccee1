"""Shortens large JSON objects, so that documents stay below MongoDB's 16 MB. Pure.

`shortened_from` says how many bytes of JSON there were. Contexts and streams are not made from these
documents.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

_MB = 1024 * 1024

MAX_ITEM_BYTES = 15 * _MB
MAX_PARAMETERS_BYTES = 5 * _MB // 2
MAX_INPUT_BYTES = 17 * _MB // 2
MAX_OUTPUT_BYTES = 9 * _MB // 2
"""Half a megabyte is left for a response's other fields. Events are written without reading the document, so
parameters, input and output each have a maximum.

A request may have 8 MB of input. A million characters of output have at most 4 MB in UTF-8, but control characters need
more in JSON.
"""

_ELEMENT_BYTES = 16
"""The most bytes that BSON adds to an element of a list."""

_MAX_DEPTH = 64
_IDENTITY = frozenset({"id", "type", "role", "status", "call_id", "name"})
_MAX_IDENTITY_LENGTH = 256
_MAX_IDENTITY_BYTES = 16 * 1024


class _Maximum(Struct, frozen=True):
    characters: int
    members: int


_MAXIMA = (_Maximum(65_536, 4_096), _Maximum(4_096, 256), _Maximum(256, 32))
"""Tried in this order, until the object is small enough."""


def shortened(text: bytes, max_bytes: int) -> bytes:
    """The JSON object, shortened if it is larger than `max_bytes`.

    If even the shortest form is larger, only the fields that identify the object are returned.
    """
    if len(text) <= max_bytes:
        return text
    full: dict[str, Any] = msgspec.json.decode(text)
    for maximum in _MAXIMA:
        short = msgspec.json.encode({**_cut_members(full, maximum, _MAX_DEPTH), "shortened_from": len(text)})
        if len(short) <= max_bytes:
            return short
    return _identity(full, len(text))


def shortened_list(texts: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """If the objects together are too large, each object above an equal share of `max_bytes` is shortened to this
    share. If the objects still do not fit, one short object stands for the last objects.
    """
    if _size(texts) <= max_bytes:
        return [*texts]
    max_bytes -= _MAX_IDENTITY_BYTES
    share = max_bytes // len(texts) - _ELEMENT_BYTES
    short = [shortened(text, share) for text in texts]
    size = 0
    for index, text in enumerate(short):
        size += _size([text])
        if size > max_bytes:
            return [*short[:index], _identity(msgspec.json.decode(texts[index]), sum(map(len, texts[index:])))]
    return short


def _size(texts: Sequence[bytes]) -> int:
    return sum(len(text) + _ELEMENT_BYTES for text in texts)


def _identity(full: dict[str, Any], size: int) -> bytes:
    fields: dict[str, Any] = {
        name: value
        for name, value in full.items()
        if name in _IDENTITY and isinstance(value, str) and len(value) <= _MAX_IDENTITY_LENGTH
    }
    if "content" in full:
        fields["content"] = []
    return msgspec.json.encode({**fields, "shortened_from": size})


def _cut(value: Any, maximum: _Maximum, depth: int) -> Any:
    match value:
        case str() if len(value) > maximum.characters:
            return f"{value[: maximum.characters]}… [{len(value) - maximum.characters} characters left out]"
        case dict() if depth:
            return _cut_members(value, maximum, depth)
        case list() if depth:
            return [_cut(member, maximum, depth - 1) for member in value[: maximum.members]]
        case dict() | list():
            return None
        case _:
            return value


def _cut_members(full: dict[str, Any], maximum: _Maximum, depth: int) -> dict[str, Any]:
    names = list(full)[: maximum.members]
    return {name: _cut(full[name], maximum, depth - 1) for name in names if len(name) <= maximum.characters}
