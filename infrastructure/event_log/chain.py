"""The hash chain that runs through each stream: whoever has the last hash can prove that nothing before it was changed."""

from datetime import UTC, datetime
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
    parts = (
        previous,
        originator_id.bytes,
        version.to_bytes(8, "big"),
        topic.encode(),
        state,
        tenant.encode(),
        None if item_id is None else item_id.encode(),
        recorded_us.to_bytes(8, "big", signed=True),
        subject.encode(),
        None if command_id is None else command_id.bytes,
        correlation_id.encode(),
    )
    return sha256(b"".join(_ABSENT if part is None else len(part).to_bytes(4, "big") + part for part in parts)).digest()


_ABSENT = b"\xff\xff\xff\xff"
_MICROSECOND = datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC) - _EPOCH
