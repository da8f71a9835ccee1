"""Opaque cursors of a list: the query's fingerprint and the entry's sort key, as base64. Cursors are no secret."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

import msgspec

from infrastructure.http.errors import ApiError
from queries.paging import CursorParam

PREFIX: Final = "cursor_"
_FINGERPRINT_BYTES = 8


def is_cursor(text: str) -> bool:
    return text.startswith(PREFIX)


def fingerprint(query: Any) -> bytes:
    return hashlib.sha256(msgspec.json.encode(query, order="sorted")).digest()[:_FINGERPRINT_BYTES]


def encode_cursor(query: bytes, sort_key: str) -> str:
    return PREFIX + urlsafe_b64encode(query + sort_key.encode()).decode().rstrip("=")


def decode_cursor(param: CursorParam, cursor: str, query: bytes) -> str:
    """Raises ApiError (400) if the text is not a cursor of this query."""
    encoded = cursor.removeprefix(PREFIX)
    try:
        decoded = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        sort_key = decoded[_FINGERPRINT_BYTES:].decode()
    except ValueError as error:
        raise ApiError(400, f"`{param}` is not a cursor of this store.", code="invalid_cursor", param=param) from error
    if decoded[:_FINGERPRINT_BYTES] != query:
        message = f"`{param}` is not a cursor of this list. Use it with the order and the filters of the request that returned it."
        raise ApiError(400, message, code="invalid_cursor", param=param)
    return sort_key
