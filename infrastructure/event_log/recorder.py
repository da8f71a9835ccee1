"""The SQL of an append: the `eventsourcing` library's Postgres recorder with our columns.

The library repeats an insert whose answer was lost, and reports a conflict if the first insert had succeeded. We do not
repeat an insert.
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
"""Postgres notifies of appends on this channel. A notification may be lost."""

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
    """Somebody removed rows by hand."""

    def __init__(self) -> None:
        super().__init__("The log has only some of the rows of one transaction.")


class LogRow(Struct, frozen=True, array_like=True):
    """`state`: None if the reader already knows the row."""

    stream: StreamName
    version: int
    topic: str
    state: bytes | None
    recorded_at: datetime
    chain_hash: bytes
    position: int


class ConversationRecorder(PostgresApplicationRecorder):
    """Passes the library's contract tests for recorders."""

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
        """Its `call(parameters(write))` returns what `insert` returns."""
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
        """Holds the append lock. Without a COMMIT of the caller, the transaction is rolled back.

        The transaction is READ COMMITTED, so each SELECT sees all that was committed before the lock was acquired.
        """
        with self.datastore.get_connection() as connection:
            try:
                if connection.adapters.types.get(ROW_TYPE) is None:
                    self._row_type = self._row_type or CompositeInfo.fetch(connection, ROW_TYPE)
                    register_row(self._row_type, connection)
                curs = connection.cursor(row_factory=tuple_row)
                # Without parameters, statements can share a round trip. migrations/0010 explains the time limit.
                curs.execute("BEGIN; LOCK TABLE append_turn IN EXCLUSIVE MODE; SET LOCAL lock_timeout = '500ms'")
                yield curs
            except (ProgrammingError, NotSupportedError, InternalError) as error:
                # A restore makes new tables and types. Then only a new connection works.
                self._row_type = None
                connection.close()
                raise OperationalError(f"Postgres refused; perhaps the schema was replaced: {error}") from error
            finally:
                if not connection.closed and connection.info.transaction_status.name != "IDLE":
                    connection.execute("ROLLBACK")

    async def _fetch_row_type(self, connection: AsyncConnection[Any]) -> None:
        self._row_type = await CompositeInfo.fetch(connection, ROW_TYPE)
        register_row(self._row_type, connection)

    def insert(self, curs: Cursor[Any], write: Write) -> list[int] | None:
        """Returns the rows' positions. `curs` holds the append lock.

        Returns None, and does nothing, if a stream does not end as expected or an idempotency key is in use.
        """
        curs.execute(_APPEND, parameters(write), binary=True)
        row = curs.fetchone()
        assert row is not None
        positions: list[int] | None = row[0]
        return positions

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """The library's method. Raises IntegrityError if a version is taken."""
        with self.locked_transaction() as curs:
            positions = self.insert(curs, Write([_as_row(event) for event in stored_events])) if stored_events else []
            curs.execute("COMMIT")
        return positions

    def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
        """The positions of rows whose COMMIT was not answered; None if they are not in the log. Raises RowsRemoved.

        Call it inside `locked_transaction`, because a commit in progress holds the lock. A late statement inserts
        nothing if one of its streams has grown.
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
        """For each stream, the rows from its version on. Ordered as in the mapping, then by version.

        The row at the given version only shows whether the log still has this version, so it has no state. LATERAL with
        its own ORDER BY makes each stream a look-up by primary key, whatever the planner's statistics say.
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
        """The first and the last 50 rows of each item, as (stream, item, topic, state)."""
        curs.execute(
            _SELECT_ITEMS,
            (*_columns([stream for stream, _ in items]), [item for _, item in items]),
            binary=True,
        )
        return [(*items[number - 1], topic, state) for number, topic, state in curs.fetchall()]

    def select_first_answers(
        self, curs: Cursor[Any], keys: Sequence[tuple[str, str, str]], since: datetime
    ) -> list[tuple[str, str, str, bytes, UUID, int, int, bytes, datetime, bool]]:
        """(tenant, subject, key, fingerprint, stream, version, position, answer, recorded_at, whether the conversation
        is deleted).

        Leaves out a key if the log lost the events of its command.
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
        curs.execute(
            "SELECT s.number, stored.state FROM unnest(%b::text[], %b::uuid[]) WITH ORDINALITY AS s (tenant, id, number)"
            " JOIN snapshots AS stored ON stored.originator_id = s.id AND stored.tenant_id = s.tenant",
            _columns(streams),
            binary=True,
        )
        names = list(streams)
        return [(names[number - 1], state) for number, state in curs.fetchall()]

    def upsert_snapshots(self, snapshots: Sequence[tuple[StreamName, int, bytes]]) -> None:
        """Does not replace a newer snapshot."""
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
        curs.execute(
            "DELETE FROM snapshots AS stored USING unnest(%b::text[], %b::uuid[]) AS s (tenant, id)"
            " WHERE stored.originator_id = s.id AND stored.tenant_id = s.tenant",
            _columns(streams),
        )

    def delete_keys(self, now: datetime, keep: timedelta, limit: int) -> int:
        """Deletes keys that are older than `keep` by `now` and by Postgres's clock. Returns how many.

        In a sub-select the clock is read once, so the index on `recorded_at` can be used.
        """
        with self.datastore.get_connection() as connection:
            deleted = connection.execute(
                "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency_keys"
                " WHERE recorded_at < least(%b, (SELECT clock_timestamp())) - %b LIMIT %b FOR UPDATE SKIP LOCKED))",
                (now, keep, limit),
            )
            return deleted.rowcount

    def date_future_keys(self, now: datetime, keep: timedelta) -> None:
        """Gives the present time to keys that are more than `keep` in the future, which a wrong clock made."""
        with self.datastore.get_connection() as connection:
            connection.execute(
                "UPDATE idempotency_keys SET recorded_at = clock_timestamp()"
                " WHERE recorded_at > greatest(%b, (SELECT clock_timestamp())) + %b",
                (now, keep),
            )


def _columns(streams: Collection[StreamName]) -> tuple[list[str], list[UUID]]:
    return [tenant for tenant, _ in streams], [uuid_of(conversation_id) for _, conversation_id in streams]


def _as_row(event: StoredEvent) -> Row:
    """An event of the library has none of our columns."""
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
