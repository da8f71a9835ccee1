"""Opaque cursors of a list: where an entry stands in the list, and which query the list answers.

A cursor has the query's fingerprint and the entry's sort key, as base64. It is no secret: a caller gets nothing with it that their
own query would not show.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

import msgspec

from infrastructure.http.errors import ApiError
from queries.paging import CursorParam

PREFIX: Final = "cursor_"
_FINGERPRINT_BYTES = 8


def is_cursor(text: str) -> bool:
    """Whether the text looks like a cursor, not like an id."""
    return text.startswith(PREFIX)


def fingerprint(query: Any) -> bytes:
    """Differs for queries with another order or other filters."""
    return hashlib.sha256(msgspec.json.encode(query, order="sorted")).digest()[:_FINGERPRINT_BYTES]


def encode_cursor(query: bytes, sort_key: str) -> str:
    """The cursor. `query`: the query's fingerprint."""
    return PREFIX + urlsafe_b64encode(query + sort_key.encode()).decode().rstrip("=")


def decode_cursor(param: CursorParam, cursor: str, query: bytes) -> str:
    """The sort key of a cursor. Raises ApiError (400) if the text is not a cursor, or is a cursor of another query."""
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
