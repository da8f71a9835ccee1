"""The cursor of a search says where the next page begins. A cursor of another `q` or filter is refused."""

import base64
import binascii
from hashlib import sha256

import msgspec
from msgspec import Struct

from infrastructure.http.errors import ApiError
from queries.search_query import SearchQuery

_MAX_LENGTH = 200
_NOT_IN_DIGEST = {"limit", "after"}


class SearchCursor(Struct, frozen=True, array_like=True):
    """A place in a search. A search goes through blocks of matches, newest first.

    `newest`, `oldest`: the `order` of the block's first and last document; None if not known yet
    `score`, `order`: the score and the `order` of the last match before the page; None at the start of a block
    """

    newest: int | None = None
    oldest: int | None = None
    score: float | None = None
    order: int | None = None


class _Encoded(Struct, frozen=True, array_like=True):
    digest: str
    cursor: SearchCursor


def encode_cursor(cursor: SearchCursor, query: SearchQuery) -> str:
    encoded = msgspec.json.encode(_Encoded(_digest(query), cursor))
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


def cursor_of(query: SearchQuery) -> SearchCursor:
    """Raises ApiError (400) if `after` is not a cursor of this query."""
    if query.after is None:
        return SearchCursor()
    try:
        if len(query.after) > _MAX_LENGTH:
            raise ValueError
        text = query.after.encode("ascii")
        encoded = msgspec.json.decode(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)), type=_Encoded)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise _invalid("`after` is not a `next_cursor` of a search.") from None
    if encoded.digest != _digest(query):
        raise _invalid("`after` is a `next_cursor` of another search: `q` and the filters must be the same.")
    cursor = encoded.cursor
    if any(value is not None and not 0 <= value < 2**63 for value in (cursor.newest, cursor.oldest, cursor.order)):
        raise _invalid("`after` is not a `next_cursor` of a search.")
    return cursor


def _digest(query: SearchQuery) -> str:
    fields = query.model_dump(exclude=_NOT_IN_DIGEST)
    return sha256(msgspec.json.encode(fields)).hexdigest()[:16]


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_cursor", param="after")
