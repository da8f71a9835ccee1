"""The hash chain that runs through each stream: whoever has the last hash can prove that nothing before it was changed."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

GENESIS = b""
"""What the first event of a stream has before it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def chain_hash(
    previous: bytes,
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
) -> bytes:
    """SHA-256 over the previous hash and each column of the row, every one with its length in front (4 bytes, big endian).

    UUIDs are their 16 bytes, texts UTF-8, the version and the time (microseconds since 1970, UTC) 8 bytes big endian;
    what is absent has the length 0xFFFFFFFF and no bytes.
    """
    recorded_us = (recorded_at - _EPOCH) // _MICROSECOND
    named = (topic.encode(), state, tenant.encode())
    item = None if item_id is None else item_id.encode()
    caused = subject.encode()
    command = None if command_id is None else command_id.bytes
    correlation = correlation_id.encode()
    return sha256(
        b"".join(
            (
                _length(previous),
                previous,
                _SIXTEEN,
                originator_id.bytes,
                _EIGHT,
                version.to_bytes(8, "big"),
                *(piece for part in named for piece in (_length(part), part)),
                _length(item),
                item or b"",
                _EIGHT,
                recorded_us.to_bytes(8, "big", signed=True),
                _length(caused),
                caused,
                _length(command),
                command or b"",
                _length(correlation),
                correlation,
            )
        )
    ).digest()


def _length(part: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if part is None else len(part).to_bytes(4, "big")


_EIGHT = _length(bytes(8))
_SIXTEEN = _length(bytes(16))
_MICROSECOND = timedelta(microseconds=1)
