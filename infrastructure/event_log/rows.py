"""Rows of `events` as a writer sends them: an array of `append_row` (migrations/0008), as Postgres' `record_send` writes it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from struct import Struct as Layout
from uuid import UUID

from msgspec import Struct

from infrastructure.event_log import columns
from infrastructure.event_log.chain import chain_hash, sized
from infrastructure.event_log.columns import Encoded


class Row(Struct, frozen=True, gc=False):
    """A row of `events` on its way to Postgres: `element` is all of it, the rest is what the writer asks of it."""

    originator_id: UUID
    originator_version: int
    topic: str
    item_id: str | None
    chain_hash: bytes
    element: bytes


def chained_row(
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
) -> Row:
    """The row below the one with the hash `previous`. Its columns are brought into bytes once, for its own hash and for Postgres."""
    recorded_at = recorded_at.astimezone(UTC)
    hashed = sized(
        originator_id=originator_id,
        version=version,
        topic=topic,
        state=state,
        tenant=tenant,
        item_id=item_id,
        recorded_at=recorded_at,
        subject=subject,
        command_id=command_id,
        correlation_id=correlation_id,
    )
    chained = chain_hash(previous, hashed)
    stream, at, named, stated, owner, item, _, by, command, correlated = hashed
    fields = b"".join(
        (
            *(_COLUMNS, _UUID, stream, _BIGINT, at, _TEXT, named, _BYTEA, stated, _TEXT, owner, _TEXT, item),
            *(_moment(recorded_at), _TEXT, by, _UUID, command, _TEXT, correlated, _BYTEA, _HASH_BYTES, chained),
        )
    )
    return Row(originator_id, version, topic, item_id, chained, _int(len(fields)) + fields)


def append_rows(rows: Sequence[Row]) -> Encoded:
    """The rows as an `append_row[]`."""
    return columns.array(_UNNAMED, [row.element for row in rows])


@lru_cache(64)
def _moment(value: datetime) -> bytes:
    """Of a time in UTC, as in `chain.py`. Kept, since the rows of a batch have the same."""
    return _timestamp(columns.TIMESTAMPTZ, 8, columns.microseconds(value))


_UNNAMED = 0
"""For a type that is not built in, Postgres takes the one it expects, whatever is said (from 14 on)."""

_int = Layout(">i").pack
_timestamp = Layout(">iiq").pack
_UUID, _BIGINT, _TEXT, _BYTEA = map(_int, (columns.UUID_TYPE, columns.BIGINT, columns.TEXT, columns.BYTEA))
_COLUMNS = _int(11)
_HASH_BYTES = _int(32)
