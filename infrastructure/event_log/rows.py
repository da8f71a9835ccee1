"""Rows of `events` as a writer sends them: an array of `append_row` (migrations/0008), as Postgres' `record_send` writes it."""

from collections.abc import Sequence
from datetime import datetime
from struct import Struct as Layout
from uuid import UUID

from msgspec import Struct

from infrastructure.event_log import columns
from infrastructure.event_log.columns import Encoded


class Row(Struct, frozen=True, gc=False):
    """A row of `events`: what the library stores of an event, and the columns that are ours."""

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


def append_rows(rows: Sequence[Row]) -> Encoded:
    """The rows as an `append_row[]`."""
    return columns.array(_UNNAMED, [_element(row) for row in rows])


def _element(row: Row) -> bytes:
    """How many fields there are, and each of them: its type, its length, its bytes."""
    topic = row.topic.encode()
    command = row.command_id
    fields = b"".join(
        (
            _begin(
                *(len(Row.__struct_fields__), columns.UUID_TYPE, 16, row.originator_id.bytes),
                *(columns.BIGINT, 8, row.originator_version, columns.TEXT, len(topic)),
            ),
            topic,
            _bytes(row.state),
            _text(row.tenant_id),
            _NO_TEXT if row.item_id is None else _text(row.item_id),
            _moment(columns.TIMESTAMPTZ, 8, columns.microseconds(row.recorded_at)),
            _text(row.subject),
            _NO_UUID if command is None else _uuid(columns.UUID_TYPE, 16, command.bytes),
            _text(row.correlation_id),
            _bytes(row.chain_hash),
        )
    )
    return _length(len(fields)) + fields


def _text(value: str) -> bytes:
    text = value.encode()
    return _sized(columns.TEXT, len(text)) + text


def _bytes(value: bytes) -> bytes:
    return _sized(columns.BYTEA, len(value)) + value


_UNNAMED = 0
"""For a type that is not built in, Postgres takes the one it expects, whatever is said (from 14 on)."""

_length = Layout(">i").pack
_begin = Layout(">iii16siiqii").pack
_sized = Layout(">ii").pack
_moment = Layout(">iiq").pack
_uuid = Layout(">ii16s").pack
_NO_TEXT = _sized(columns.TEXT, -1)
_NO_UUID = _sized(columns.UUID_TYPE, -1)
