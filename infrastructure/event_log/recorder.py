"""The SQL of an append: the `eventsourcing` library's Postgres recorder with our columns, and without its retries.

The library repeats an insert whose answer was lost, and reports a conflict if the first one had succeeded. We do not repeat it:
`locked_append.py` looks up the rows first (`positions_of`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from msgspec import Struct
from psycopg import AsyncConnection, Cursor, InternalError, NotSupportedError, OperationalError, ProgrammingError
from psycopg.rows import tuple_row
from psycopg.sql import SQL
from psycopg.types.composite import CompositeInfo

from infrastructure.event_log.append_request import StreamName
from infrastructure.event_log.chain import GENESIS
from infrastructure.event_log.datastore import LOCK_TIMEOUT_SECONDS, STATEMENT_TIMEOUT_SECONDS
from infrastructure.event_log.rows import ROW_TYPE, Row, chained_row, register_row
from infrastructure.event_log.write import PARAMETER_TYPES, Write, parameters
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres_pipeline import PostgresPipeline

TABLE = "events"
CHANNEL = TABLE
"""The channel that each commit notifies. A notification may be lost: it is only a hint to read the log."""

_APPEND = f"SELECT append_at_once({', '.join(f'%b::{type_name}' for type_name in PARAMETER_TYPES)})"
_PREPARED_APPEND = f"SELECT append_at_once({', '.join(f'${number}' for number in range(1, len(PARAMETER_TYPES) + 1))})"

_ROWS_WITH_KEY = (
    "SELECT originator_version, topic, state FROM events"
    " WHERE originator_id = i.stream AND item_id = i.item AND tenant_id = i.tenant ORDER BY originator_version"
)
_FIRST_AND_LAST_ROWS = f"({_ROWS_WITH_KEY} LIMIT 50) UNION ({_ROWS_WITH_KEY} DESC LIMIT 50)"
_SELECT_ITEMS = f"""
    SELECT i.number, e.topic, e.state FROM unnest(%b::text[], %b::uuid[], %b::text[]) WITH ORDINALITY AS i (tenant, stream, item, number)
    CROSS JOIN LATERAL ({_FIRST_AND_LAST_ROWS}) AS e ORDER BY i.number, e.originator_version
"""  # noqa: S608 - no text from outside


class RowsRemoved(Exception):
    """The log has some rows of a transaction, and not the others: somebody removed rows by hand."""

    def __init__(self) -> None:
        super().__init__("The log has only some of the rows of one transaction.")


class LogRow(Struct, frozen=True, array_like=True):
    """A row from which a stream's state is computed. `stream`: its name. `state`: None if the reader already knows the row."""

    stream: StreamName
    version: int
    topic: str
    state: bytes | None
    recorded_at: datetime
    chain_hash: bytes
    position: int


class ConversationRecorder(PostgresApplicationRecorder):
    """Appends and reads rows of `events`, and of the tables of snapshots and idempotency keys. Passes the library's own contract tests for recorders."""

    pipeline_type = PostgresPipeline
    transaction_timeout_seconds = LOCK_TIMEOUT_SECONDS + STATEMENT_TIMEOUT_SECONDS

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore, events_table_name=TABLE)
        self.sql_create_statements.clear()  # the migrations own the schema
        self._row_type: CompositeInfo | None = None
        self.lock_table_statements = [SQL("LOCK TABLE append_turn IN EXCLUSIVE MODE")]

    def create_table(self) -> None:
        """Creates nothing: see `migrate`."""

    def pipeline(self) -> PostgresPipeline:
        """A connection that appends in one round trip: `call(parameters(write))` returns the positions, or None, as `insert` does."""
        assert isinstance(self.datastore.pool.kwargs, dict)
        arguments = {name: value for name, value in self.datastore.pool.kwargs.items() if name != "row_factory"}
        return self.pipeline_type(
            arguments,
            name="append_at_once",
            types=PARAMETER_TYPES,
            statement=_PREPARED_APPEND,
            transaction_timeout_seconds=self.transaction_timeout_seconds,
            register_types=self._fetch_row_type,
        )

    @contextmanager
    def locked_transaction(self) -> Iterator[Cursor[tuple[Any, ...]]]:
        """A transaction that holds the append lock. The caller executes COMMIT; otherwise it is rolled back.

        It is READ COMMITTED: each SELECT sees all that was committed before the lock was acquired.
        """
        with self.datastore.get_connection() as connection:
            try:
                if connection.adapters.types.get(ROW_TYPE) is None:
                    self._row_type = self._row_type or CompositeInfo.fetch(connection, ROW_TYPE)
                    register_row(self._row_type, connection)
                curs = connection.cursor(row_factory=tuple_row)
                # Statements without parameters can share a round trip. The time limit: see migrations/0010.
                curs.execute("BEGIN; LOCK TABLE append_turn IN EXCLUSIVE MODE; SET LOCAL lock_timeout = '500ms'")
                yield curs
            except (ProgrammingError, NotSupportedError, InternalError) as error:
                # A restore drops the tables and types that this connection knows, and makes them again. A new connection works then.
                self._row_type = None
                connection.close()
                raise OperationalError(f"Postgres refused; perhaps the schema was replaced: {error}") from error
            finally:
                if not connection.closed and connection.info.transaction_status.name != "IDLE":
                    connection.execute("ROLLBACK")

    async def _fetch_row_type(self, connection: AsyncConnection[Any]) -> None:
        """Called for each new connection of the pipeline."""
        self._row_type = await CompositeInfo.fetch(connection, ROW_TYPE)
        register_row(self._row_type, connection)

    def insert(self, curs: Cursor[Any], write: Write) -> list[int] | None:
        """Inserts the rows in order and returns their positions. `curs` holds the append lock.

        Returns None, and does nothing, if a stream does not end as expected or an idempotency key is in use.
        """
        curs.execute(_APPEND, parameters(write), binary=True)
        row = curs.fetchone()
        assert row is not None
        positions: list[int] | None = row[0]
        return positions

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """The library's method: one transaction with these events. Raises IntegrityError if a version is taken."""
        with self.locked_transaction() as curs:
            positions = self.insert(curs, Write([_as_row(event) for event in stored_events])) if stored_events else []
            curs.execute("COMMIT")
        return positions

    def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
        """The positions of rows whose COMMIT was not answered; None if they are not in the log. Raises RowsRemoved if only some of them are.

        Call it inside `locked_transaction`: a commit still in progress holds the lock. If the rows are not in the log, their statement may
        still arrive. After another append to one of their streams, it inserts nothing. Rows are compared by their hashes, which cover every column.
        """
        curs.execute(
            "SELECT e.notification_id FROM unnest(%b::text[], %b::uuid[], %b::bigint[], %b::bytea[])"
            " WITH ORDINALITY AS r (tenant, stream, version, chain_hash, number) CROSS JOIN LATERAL (SELECT * FROM events"
            " WHERE originator_id = r.stream AND originator_version = r.version AND tenant_id = r.tenant"
            " AND chain_hash = r.chain_hash LIMIT 1) AS e ORDER BY r.number",
            (
                [row.tenant_id for row in rows],
                [row.originator_id for row in rows],
                [row.originator_version for row in rows],
                [row.chain_hash for row in rows],
            ),
        )
        positions = [position for (position,) in curs.fetchall()]
        if positions and len(positions) < len(rows):
            raise RowsRemoved
        return positions or None

    def select_from(
        self, curs: Cursor[Any], versions: Mapping[StreamName, int], max_rows: int, max_bytes: int
    ) -> list[LogRow]:
        """A page of the rows of these streams: for each, the rows from its version on. Ordered as in the mapping, then by version.

        The row at that version has no state: it only shows whether the log still has it. The page ends after `max_rows`, or with the row
        that brings the states to `max_bytes`. LATERAL with its own ORDER BY makes each stream a look-up by primary key, whatever the
        planner's statistics say.
        """
        curs.execute(
            "SELECT number, version, topic, state, recorded_at, chain_hash, position FROM ("
            "SELECT *, sum(bytes) OVER (ORDER BY number, version) - bytes AS before FROM ("
            "SELECT s.number, e.originator_version AS version, e.topic, e.recorded_at, e.chain_hash, e.notification_id AS position,"
            " CASE WHEN e.originator_version > s.version THEN e.state END AS state,"
            " CASE WHEN e.originator_version > s.version THEN octet_length(e.state) ELSE 0 END AS bytes"
            " FROM unnest(%b::text[], %b::uuid[], %b::bigint[]) WITH ORDINALITY AS s (tenant, id, version, number) CROSS JOIN LATERAL ("
            "SELECT * FROM events WHERE originator_id = s.id AND tenant_id = s.tenant AND originator_version >= s.version"
            " ORDER BY originator_version LIMIT %b) AS e LIMIT %b) AS found) AS page"
            " WHERE before < %b ORDER BY number, version",
            (*_columns(versions), list(versions.values()), max_rows, max_rows, max_bytes),
            binary=True,
        )
        names = list(versions)
        return [LogRow(names[number - 1], *row) for number, *row in curs.fetchall()]

    def select_last_versions(self, curs: Cursor[Any], streams: Collection[StreamName]) -> dict[StreamName, int]:
        """The last version of each of these streams that exists."""
        curs.execute(
            "SELECT s.number, max(e.originator_version) FROM unnest(%b::text[], %b::uuid[]) WITH ORDINALITY AS s (tenant, id, number)"
            " JOIN events AS e ON e.originator_id = s.id AND e.tenant_id = s.tenant GROUP BY s.number",
            _columns(streams),
            binary=True,
        )
        names = list(streams)
        return {names[number - 1]: version for number, version in curs.fetchall()}

    def select_items(
        self, curs: Cursor[Any], items: Sequence[tuple[StreamName, str]]
    ) -> list[tuple[StreamName, str, str, bytes]]:
        """For each (stream, item), the first and the last 50 rows with this row key, in order: as (stream, item, topic, state)."""
        curs.execute(
            _SELECT_ITEMS,
            (*_columns([stream for stream, _ in items]), [item for _, item in items]),
            binary=True,
        )
        return [(*items[number - 1], topic, state) for number, topic, state in curs.fetchall()]

    def select_first_answers(
        self, curs: Cursor[Any], keys: Sequence[tuple[str, str, str]], since: datetime
    ) -> list[tuple[str, str, str, bytes, UUID, int, int, bytes, datetime, bool]]:
        """The answer stored with each (tenant, subject, key) at `since` or later, if there is one and the log still has the events of its command.

        Each is (tenant, subject, key, fingerprint, stream, version, position, answer, recorded_at, whether its conversation is deleted).
        """
        curs.execute(
            "SELECT k.tenant_id, k.subject, k.key, k.fingerprint, k.conversation_id, k.version, k.position, k.answer, k.recorded_at, deleted"
            " FROM unnest(%b::text[], %b::text[], %b::text[]) AS requested (tenant, subject, key) CROSS JOIN LATERAL ("
            "SELECT * FROM idempotency_keys WHERE tenant_id = requested.tenant AND subject = requested.subject"
            " AND key = requested.key AND recorded_at >= %b"
            " ORDER BY tenant_id, key, subject LIMIT 1) AS k CROSS JOIN LATERAL (SELECT FROM events AS e"
            " WHERE e.originator_id = k.conversation_id AND e.originator_version = k.version AND e.command_id = k.command_id"
            " AND e.tenant_id = k.tenant_id ORDER BY e.originator_version LIMIT 1) AS recorded"
            " CROSS JOIN LATERAL (SELECT topic = 'conversation.deleted' AS deleted FROM events WHERE originator_id = k.conversation_id"
            " ORDER BY originator_version DESC LIMIT 1) AS newest",
            (*([key[part] for key in keys] for part in range(3)), since),
            binary=True,
        )
        return curs.fetchall()

    def select_snapshots(self, curs: Cursor[Any], streams: Collection[StreamName]) -> list[tuple[StreamName, bytes]]:
        """The snapshots of these streams, as (stream, state)."""
        curs.execute(
            "SELECT s.number, stored.state FROM unnest(%b::text[], %b::uuid[]) WITH ORDINALITY AS s (tenant, id, number)"
            " JOIN snapshots AS stored ON stored.originator_id = s.id AND stored.tenant_id = s.tenant",
            _columns(streams),
            binary=True,
        )
        names = list(streams)
        return [(names[number - 1], state) for number, state in curs.fetchall()]

    def upsert_snapshots(self, snapshots: Sequence[tuple[StreamName, int, bytes]]) -> None:
        """Stores each (stream, version, state), unless the stream has a newer one."""
        streams, versions, states = zip(*snapshots, strict=True)
        with self.datastore.get_connection() as connection:
            connection.execute(
                "INSERT INTO snapshots AS stored (tenant_id, originator_id, originator_version, state)"
                " SELECT * FROM unnest(%b::text[], %b::uuid[], %b::bigint[], %b::bytea[])"
                " ON CONFLICT (originator_id) DO UPDATE SET originator_version = excluded.originator_version, state = excluded.state"
                " WHERE stored.tenant_id = excluded.tenant_id AND stored.originator_version < excluded.originator_version",
                (*_columns(streams), list(versions), list(states)),
            )

    def delete_snapshots(self, curs: Cursor[Any], streams: Collection[StreamName]) -> None:
        """Deletes the snapshots of these streams."""
        curs.execute(
            "DELETE FROM snapshots AS stored USING unnest(%b::text[], %b::uuid[]) AS s (tenant, id)"
            " WHERE stored.originator_id = s.id AND stored.tenant_id = s.tenant",
            _columns(streams),
        )

    def delete_keys(self, now: datetime, keep: timedelta, limit: int) -> int:
        """Deletes at most `limit` idempotency keys that are older than `keep`, by `now` and by Postgres's clock. Returns how many.

        In a sub-select the clock is read once, so the index on `recorded_at` can be used; also in `date_future_keys`.
        """
        with self.datastore.get_connection() as connection:
            deleted = connection.execute(
                "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency_keys"
                " WHERE recorded_at < least(%b, (SELECT clock_timestamp())) - %b LIMIT %b FOR UPDATE SKIP LOCKED))",
                (now, keep, limit),
            )
            return deleted.rowcount

    def date_future_keys(self, now: datetime, keep: timedelta) -> None:
        """Sets the time of idempotency keys to now if it is more than `keep` in the future: a wrong clock made it.

        Otherwise they would be kept until that time comes.
        """
        with self.datastore.get_connection() as connection:
            connection.execute(
                "UPDATE idempotency_keys SET recorded_at = clock_timestamp()"
                " WHERE recorded_at > greatest(%b, (SELECT clock_timestamp())) + %b",
                (now, keep),
            )


def _columns(streams: Collection[StreamName]) -> tuple[list[str], list[UUID]]:
    """The tenants and the ids of these streams, as two parameters of a statement."""
    return [tenant for tenant, _ in streams], [uuid_of(conversation_id) for _, conversation_id in streams]


def _as_row(event: StoredEvent) -> Row:
    """The row of an event of the library. It names no tenant, item, subject or request, and no earlier row is hashed."""
    assert isinstance(event.originator_id, UUID)
    return chained_row(
        GENESIS,
        originator_id=event.originator_id,
        version=event.originator_version,
        topic=event.topic,
        state=event.state,
        tenant="",
        item_id=None,
        recorded_at=datetime.now(UTC),
        subject="",
        command_id=None,
        correlation_id="",
    )
