"""The hash chain that runs through each stream: whoever has the last hash can prove that nothing before it was changed."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from struct import Struct
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
    named, tenant_id = topic.encode(), tenant.encode()
    caused, correlated = subject.encode(), correlation_id.encode()
    item = b"" if item_id is None else item_id.encode()
    command = b"" if command_id is None else command_id.bytes
    return sha256(
        b"".join(
            (
                _length(len(previous)),
                previous,
                _SIXTEEN,
                originator_id.bytes,
                _EIGHT,
                version.to_bytes(8, "big"),
                _length(len(named)),
                named,
                _length(len(state)),
                state,
                _length(len(tenant_id)),
                tenant_id,
                _ABSENT if item_id is None else _length(len(item)),
                item,
                _EIGHT,
                ((recorded_at - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True),
                _length(len(caused)),
                caused,
                _ABSENT if command_id is None else _SIXTEEN,
                command,
                _length(len(correlated)),
                correlated,
            )
        )
    ).digest()


_length = Struct(">I").pack
_ABSENT = b"\xff\xff\xff\xff"
_EIGHT = _length(8)
_SIXTEEN = _length(16)
_MICROSECOND = timedelta(microseconds=1)
