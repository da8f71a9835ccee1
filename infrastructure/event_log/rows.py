"""The rows that an append inserts into `events`, sent as one array of the type `append_row` (migrations/0008)."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import astuple
from psycopg import AsyncConnection, Connection
from psycopg.errors import UndefinedObject
from psycopg.types.composite import CompositeInfo, register_composite

from infrastructure.event_log.chain import GENESIS, chain_hash, length_prefixed

StreamEnd = tuple[int, bytes]
"""(version, chain hash) of a stream's last row."""

NO_ROWS: StreamEnd = (0, GENESIS)


class Row(Struct, frozen=True, gc=False):
    """The columns of `append_row`, in its order."""

    originator_id: UUID
    originator_version: int
    topic: str
    state: bytes
    tenant_id: str
    item_id: str | None
    recorded_at: datetime
    subject: str
    command_id: UUID | None
    correlation_id: str
    chain_hash: bytes


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
    """The row after the row with the hash `previous`."""
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
    return Row(
        originator_id,
        version,
        topic,
        state,
        tenant,
        item_id,
        recorded_at,
        subject,
        command_id,
        correlation_id,
        chain_hash(previous, hashed),
    )


ROW_TYPE = "append_row"


def register_row(row_type: CompositeInfo | None, connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Lets the connection send Rows. Raises psycopg.Error if `row_type` is None."""
    if row_type is None:
        raise UndefinedObject(f"the type {ROW_TYPE} does not exist: migrations/0008 creates it")
    register_composite(row_type, connection, Row, make_sequence=lambda row, _: astuple(row))
