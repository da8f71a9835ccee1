"""The hash chain that runs through each stream: whoever has the last hash can prove that nothing before it was changed."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from uuid import UUID

GENESIS = b""
"""What the first event of a stream has before it."""

Sized = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""The columns of a row in the order of `sized`, each with its length in front (4 bytes, big endian)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def chain_hash(previous: bytes, columns: Sized) -> bytes:
    """SHA-256 over the hash of the row before (GENESIS for the first) and the columns, every one with its length in front."""
    return sha256(b"".join((_length(len(previous)), previous, *columns))).digest()


def sized(
    *,
    originator_id: UUID,
    version: int,
    topic: str,
    state: bytes,
    tenant: str,
    item_id: str | None,
    recorded_at: datetime,
    subject: str,
    command_id: UUID | None,
    correlation_id: str,
) -> Sized:
    """The columns of a row as they are hashed; but for the time, also as Postgres takes them (`rows.py`).

    UUIDs are their 16 bytes, texts UTF-8, the version and the time (microseconds since 1970, UTC) 8 bytes big endian;
    what is absent has the length 0xFFFFFFFF and no bytes.
    """
    return (
        _SIXTEEN + originator_id.bytes,
        _bigint(8, version),
        _repeated(topic),
        _length(len(state)) + state,
        _repeated(tenant),
        _ABSENT if item_id is None else _text(item_id),
        _moment(recorded_at.astimezone(UTC)),
        _repeated(subject),
        _ABSENT if command_id is None else _SIXTEEN + command_id.bytes,
        _text(correlation_id),
    )


def _text(value: str) -> bytes:
    text = value.encode()
    return _length(len(text)) + text


_repeated = lru_cache(1024)(_text)
"""For the texts that row after row has."""


@lru_cache(64)
def _moment(value: datetime) -> bytes:
    """Of a time in UTC: in another zone the hours that a clock goes twice are equal. Kept, since the rows of a batch have the same."""
    return _bigint(8, (value - _EPOCH) // _MICROSECOND)


_length = Struct(">I").pack
_bigint = Struct(">Iq").pack
_ABSENT = b"\xff\xff\xff\xff"
_SIXTEEN = _length(16)
_MICROSECOND = timedelta(microseconds=1)
