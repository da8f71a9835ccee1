"""Rows of `events` as they are sent to Postgres: an array of `append_row` (migrations/0008) in the binary format of `record_send`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from struct import Struct as Layout
from uuid import UUID

from msgspec import Struct

from infrastructure.event_log import columns
from infrastructure.event_log.chain import chain_hash, length_prefixed
from infrastructure.event_log.columns import Encoded


class Row(Struct, frozen=True, gc=False):
    """A row of `events` to insert. `element` has all its columns, encoded; the other fields are what the writer needs again."""

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
    """The row after the one with the hash `previous`. Its columns are encoded once, for the hash and for Postgres."""
    recorded_at = recorded_at.astimezone(UTC)
    hashed = length_prefixed(
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
    stream, number, topic_, state_, tenant_, item, _, subject_, command, correlation = hashed
    fields = b"".join(
        (
            *(_COLUMNS, _UUID, stream, _BIGINT, number, _TEXT, topic_, _BYTEA, state_, _TEXT, tenant_, _TEXT, item),
            *(_timestamp(recorded_at), _TEXT, subject_, _UUID, command, _TEXT, correlation),
            *(_BYTEA, _HASH_BYTES, chained),
        )
    )
    return Row(originator_id, version, topic, item_id, chained, _int(len(fields)) + fields)


def append_rows(rows: Sequence[Row]) -> Encoded:
    """The rows as an `append_row[]`."""
    return columns.array(_ANY_TYPE, [row.element for row in rows])


@lru_cache(64)
def _timestamp(value: datetime) -> bytes:
    """Of a time in UTC, as in `chain.py`. Cached, since the rows of a batch share it."""
    return _timestamp_field(columns.TIMESTAMPTZ, 8, columns.microseconds(value))


_ANY_TYPE = 0
"""From version 14 on, Postgres does not check the element type of an array whose type is not built in."""

_int = Layout(">i").pack
_timestamp_field = Layout(">iiq").pack
_UUID, _BIGINT, _TEXT, _BYTEA = map(_int, (columns.UUID_TYPE, columns.BIGINT, columns.TEXT, columns.BYTEA))
_COLUMNS = _int(11)
_HASH_BYTES = _int(32)
