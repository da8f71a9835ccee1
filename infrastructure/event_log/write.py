"""What one append transaction writes, and its form as parameters of the SQL function `append_at_once` (migrations/0008)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct

from infrastructure.event_log import columns
from infrastructure.event_log.columns import Encoded
from infrastructure.event_log.rows import Row, append_rows


class IdempotencyRecord(Struct, frozen=True, gc=False):
    """The answer to store with an idempotency key. `row` (from 1): the last row of its command."""

    row: int
    key: str
    fingerprint: bytes
    answer: bytes


class Write(Struct, frozen=True):
    """The rows of one transaction, and what changes with them in the tables of replies and idempotency keys.

    `expected_versions`: the version of each stream that the rows were decided on. `started_replies` and `ended_replies`: the replies that
    rows start or end, as (row from 1, response id). `owner`: the process that runs the started ones. `deleted_streams`: their replies end too.
    A stored key older than `keys_valid_since` has expired and is replaced.
    """

    rows: Sequence[Row]
    expected_versions: Mapping[UUID, int] = {}
    started_replies: Sequence[tuple[int, str]] = ()
    owner: UUID | None = None
    ended_replies: Sequence[tuple[int, str]] = ()
    deleted_streams: Sequence[UUID] = ()
    idempotency: Sequence[IdempotencyRecord] = ()
    keys_valid_since: datetime = datetime.min.replace(year=2000, tzinfo=UTC)

    @property
    def has_only_rows(self) -> bool:
        return not (self.started_replies or self.ended_replies or self.deleted_streams or self.idempotency)


PARAMETER_TYPES = (
    *("uuid[]", "bigint[]"),  # expected versions
    "append_row[]",
    *("int[]", "text[]", "uuid[]", "int[]", "text[]", "uuid[]"),  # replies
    *("int[]", "text[]", "bytea[]", "bytea[]", "timestamptz"),  # idempotency keys
)


def parameters(write: Write) -> list[Encoded]:
    """The parameters of `append_at_once`, in the order of PARAMETER_TYPES."""
    return [
        columns.uuids(list(write.expected_versions)),
        columns.bigints(list(write.expected_versions.values())),
        append_rows(write.rows),
        *(_NO_SIDE_TABLES if write.has_only_rows else _side_tables(write)),
        columns.timestamp(write.keys_valid_since),
    ]


def _side_tables(write: Write) -> list[Encoded]:
    """The parameters for the tables of replies and idempotency keys."""
    records = write.idempotency
    return [
        columns.ints([row for row, _ in write.started_replies]),
        columns.texts([response_id for _, response_id in write.started_replies]),
        columns.uuids([write.owner]),
        columns.ints([row for row, _ in write.ended_replies]),
        columns.texts([response_id for _, response_id in write.ended_replies]),
        columns.uuids(write.deleted_streams),
        columns.ints([record.row for record in records]),
        columns.texts([record.key for record in records]),
        columns.byteas([record.fingerprint for record in records]),
        columns.byteas([record.answer for record in records]),
    ]


_NO_SIDE_TABLES = _side_tables(Write([]))
"""Most batches write only rows, so these are encoded once."""
