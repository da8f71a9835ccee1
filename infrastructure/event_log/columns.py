"""Arrays as Postgres' `array_send` writes them: what a batch is sent as, encoded here.

The driver's own dumper looks at every value's type in Python; here the column says it, and a batch of 16 costs a fifth.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from struct import Struct
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = Struct(">5i")  # dimensions, whether NULLs are in it, the elements' type, how many, the first one's index
_ELEMENT = Struct(">iq")
_length = Struct(">i").pack
_bigint = Struct(">q").pack
_NULL = b"\xff\xff\xff\xff"
_SIXTEEN = _length(16)
_EIGHT = _length(8)
_FOUR = _length(4)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
UUID_TYPE, BIGINT, INT, TEXT, BYTEA, TIMESTAMPTZ = 2950, 20, 23, 25, 17, 1184
"""Types, by their numbers in `pg_type`."""


class Encoded(bytes):
    """A parameter that is in Postgres' binary form already; the statement casts it to its type."""


class EncodedDumper(Dumper):
    """Gives an `Encoded` to the driver as it is."""

    format = Format.BINARY

    def dump(self, obj: Encoded) -> bytes:
        return obj


def uuids(values: Sequence[UUID | None]) -> Encoded:
    return array(UUID_TYPE, [_NULL if value is None else _SIXTEEN + value.bytes for value in values])


def bigints(values: Sequence[int]) -> Encoded:
    return array(BIGINT, [_EIGHT + _bigint(value) for value in values])


def ints(values: Sequence[int]) -> Encoded:
    return array(INT, [_FOUR + _length(value) for value in values])


def texts(values: Sequence[str | None]) -> Encoded:
    return _varying(TEXT, [None if value is None else value.encode() for value in values])


def byteas(values: Sequence[bytes]) -> Encoded:
    return _varying(BYTEA, values)


def timestamp(value: datetime) -> Encoded:
    """One value, no array."""
    return Encoded(_bigint(microseconds(value)))


def read_bigints(array: bytes) -> list[int]:
    """The elements of a bigint[] of one dimension without NULLs."""
    return [value for _, value in _ELEMENT.iter_unpack(array[_HEAD.size :])]


def array(kind: int, elements: Sequence[bytes]) -> Encoded:
    """An array of one dimension; each element has its length in front."""
    if not elements:
        return _empty(kind)
    # That there may be NULLs is no promise that there are.
    return Encoded(_HEAD.pack(1, 1, kind, len(elements), 1) + b"".join(elements))


@cache
def _empty(kind: int) -> Encoded:
    """Most columns of most batches."""
    return Encoded(_HEAD.pack(1, 1, kind, 0, 1))


def _varying(kind: int, values: Sequence[bytes | None]) -> Encoded:
    return array(kind, [_NULL if value is None else _length(len(value)) + value for value in values])


def microseconds(value: datetime) -> int:
    """Since 2000, in UTC: what a timestamptz is."""
    return (value - _EPOCH) // _MICROSECOND


psycopg.adapters.register_dumper(Encoded, EncodedDumper)
