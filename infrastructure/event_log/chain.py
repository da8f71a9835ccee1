"""The hash chain of each stream. With a copy of a stream's last hash, you can prove that no earlier event was changed.

The hashes are stored, so the bytes that are hashed must never change.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from uuid import UUID

GENESIS = b""

PrefixedColumns = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""The columns in the order of `length_prefixed`. Each column begins with its length (4 bytes, big endian)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def chain_hash(previous: bytes, columns: PrefixedColumns) -> bytes:
    """SHA-256 over the previous row's hash and the columns, each after its length."""
    return sha256(b"".join((_length(len(previous)), previous, *columns))).digest()


def length_prefixed(
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
) -> PrefixedColumns:
    """The columns of a row as they are hashed.

    UUID: 16 bytes. Text: UTF-8. Version and time (microseconds since 1970, UTC): 8 bytes, big endian. NULL: only the length 0xFFFFFFFF.
    """
    return (
        _SIXTEEN_BYTES + originator_id.bytes,
        _bigint(8, version),
        _cached_text(topic),
        _length(len(state)) + state,
        _cached_text(tenant),
        _NULL if item_id is None else _text(item_id),
        _time(recorded_at.astimezone(UTC)),
        _cached_text(subject),
        _NULL if command_id is None else _SIXTEEN_BYTES + command_id.bytes,
        _text(correlation_id),
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _length(len(encoded)) + encoded


_cached_text = lru_cache(1024)(_text)


@lru_cache(64)
def _time(value: datetime) -> bytes:
    """`value` must be in UTC. In another zone, two different times can compare equal, and the cache would confuse these times."""
    return _bigint(8, (value - _EPOCH) // _MICROSECOND)


_length = Struct(">I").pack
_bigint = Struct(">Iq").pack
_NULL = b"\xff\xff\xff\xff"
_SIXTEEN_BYTES = _length(16)
_MICROSECOND = timedelta(microseconds=1)
