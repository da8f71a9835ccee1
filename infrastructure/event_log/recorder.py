"""The `eventsourcing` library's Postgres recorder with our row: more columns, our tables, no retry of an insert.

The library retries an insert whose answer was lost, and then reports its own success as a conflict. Here nothing is
retried: the writer looks the command up instead (`positions_of`). Only the event log imports this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from msgspec import Struct
from psycopg import Cursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg.sql import SQL

from infrastructure.event_log import columns
from infrastructure.event_log.chain import GENESIS
from infrastructure.event_log.columns import Encoded
from infrastructure.event_log.rows import Row, append_rows, chained_row
from infrastructure.stores.postgres import NOTICE_SILENCE
from infrastructure.stores.postgres_pipeline import PostgresPipeline

TABLE = "events"
CHANNEL = TABLE
"""The channel that is notified at each commit; a hint to look, never more."""

LOCK_SECONDS = 10
STATEMENT_SECONDS = 30
IDLE_SECONDS = 10
TRANSACTION_SECONDS = LOCK_SECONDS + STATEMENT_SECONDS


class FirstAnswer(Struct, frozen=True, gc=False):
    """What a command with an idempotency key is answered; `row` (from 1) is the last of its events' rows."""

    row: int
    key: str
    fingerprint: bytes
    body: bytes


class Write(Struct, frozen=True):
    """What one transaction writes: rows, and beside them whose each new response is, and first answers of keys.

    `held` has the version of each stream that it was decided on; `responses` and `over` are the replies that rows begin and end:
    (row, from 1; response id), of which `owner` runs those that begin. `deleted` streams take theirs with them. A key whose
    answer was kept before `keys_since` is taken for a new one.
    """

    rows: Sequence[Row]
    held: Mapping[UUID, int] = {}
    responses: Sequence[tuple[int, str]] = ()
    owner: UUID | None = None
    over: Sequence[tuple[int, str]] = ()
    deleted: Sequence[UUID] = ()
    answers: Sequence[FirstAnswer] = ()
    keys_since: datetime = datetime.min.replace(year=2000, tzinfo=UTC)

    @property
    def has_more(self) -> bool:
        """Whether there is anything beside the rows."""
        return bool(self.responses or self.over or self.deleted or self.answers)


class Datastore(PostgresDatastore):
    """The library's connection pool, opened from a URL. No composite types: we create none."""

    def __init__(self, postgres_url: str) -> None:
        given = conninfo_to_dict(postgres_url)
        super().__init__(
            dbname=str(given.pop("dbname", "")),
            host=str(given.pop("host", "")),
            port=str(given.pop("port", "")),
            user=str(given.pop("user", "")),
            password=str(given.pop("password", "")),
            connect_timeout=5.0,
            pool_size=1,
            max_overflow=3,
            originator_id_type="uuid",
            # A process that was stopped, or whose machine is gone, must not keep the turn from everyone.
            idle_in_transaction_session_timeout=IDLE_SECONDS,
        )
        self.pool.reconnect_timeout = 5.0
        limits = f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s"
        options = f"{given.pop('options', '')} {limits}".strip()
        assert isinstance(self.pool.kwargs, dict)
        kwargs = {name: value for name, value in self.pool.kwargs.items() if value != ""}
        fixed = {"options": options, "client_encoding": "UTF8"}
        self.pool.kwargs = {"connect_timeout": 5, **NOTICE_SILENCE, **kwargs, **given, **fixed}

    def register_type_adapters(self) -> None:
        """Nothing to look up, so that a recorder can be made while Postgres is away."""


class ConversationRecorder(PostgresApplicationRecorder):
    """Appends and reads rows of `events`. Passes the library's own contract tests for recorders."""

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore, events_table_name=TABLE)
        self.sql_create_statements.clear()  # the migrations own the schema
        self.lock_table_statements = [SQL("LOCK TABLE append_turn IN EXCLUSIVE MODE")]

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """One transaction with these events. Raises the library's IntegrityError on a version that is taken."""
        with self.turn() as curs:
            positions = self.insert(curs, Write([_as_row(event) for event in stored_events])) if stored_events else []
            curs.execute("COMMIT")
        return positions

    @contextmanager
    def turn(self) -> Iterator[Cursor[tuple[Any, ...]]]:
        """A transaction that holds the append lock; the caller says COMMIT, leaving otherwise rolls back.

        READ COMMITTED: what is selected inside sees all that was committed before the lock was got.
        """
        with self.datastore.get_connection() as connection:
            curs = connection.cursor(row_factory=tuple_row)
            try:
                # One round trip: several statements without parameters may travel together.
                curs.execute("BEGIN; LOCK TABLE append_turn IN EXCLUSIVE MODE")
                yield curs
            finally:
                if not connection.closed and connection.info.transaction_status.name != "IDLE":
                    connection.execute("ROLLBACK")

    def insert(self, curs: Cursor[Any], write: Write) -> list[int] | None:
        """Inserts the rows in this order, and what is kept beside them, and returns their positions.

        None, with nothing done, when a stream is past the version that is held of it, or a key has a first answer.
        """
        curs.execute(_INSERT, parameters(write), binary=True)
        row = curs.fetchone()
        assert row is not None
        positions: list[int] | None = row[0]
        return positions

    def line(self) -> PostgresPipeline:
        """A connection on which an append is one round trip: `call(parameters(write))` returns the positions as an array."""
        assert isinstance(self.datastore.pool.kwargs, dict)
        given = {name: value for name, value in self.datastore.pool.kwargs.items() if name != "row_factory"}
        return PostgresPipeline(given, "append_at_once", _TYPES, _INSERT_AT_ONCE, TRANSACTION_SECONDS)

    def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
        """The positions of rows whose COMMIT was not answered; None when they are not in the log.

        Ask inside `turn`: whoever commits them just now holds the lock. What is not there may still be on its way, held up between
        here and the server; what is appended meanwhile keeps it out. Rows are known by their hashes, which cover all of them.
        """
        curs.execute(
            "SELECT e.notification_id FROM unnest(%b::uuid[], %b::bigint[], %b::bytea[])"
            " WITH ORDINALITY AS r (stream, version, chained, place) CROSS JOIN LATERAL (SELECT * FROM events"
            " WHERE originator_id = r.stream AND originator_version = r.version AND chain_hash = r.chained LIMIT 1) AS e"
            " ORDER BY r.place",
            (
                [row.originator_id for row in rows],
                [row.originator_version for row in rows],
                [row.chain_hash for row in rows],
            ),
        )
        positions = [position for (position,) in curs.fetchall()]
        return positions if len(positions) == len(rows) else None

    def select_since(
        self, curs: Cursor[Any], versions: Mapping[UUID, int], limit: int = 2**31
    ) -> list[tuple[UUID, str, bytes, datetime, bytes, int]]:
        """What each stream holds past a version: (stream, topic, state, recorded_at, chain_hash, position), in order.

        At most `limit` of each. LATERAL with its own order keeps every stream a look-up by primary key, whatever the planner
        believes of a table that grows faster than its statistics.
        """
        curs.execute(
            "SELECT s.id, e.topic, e.state, e.recorded_at, e.chain_hash, e.notification_id"
            " FROM unnest(%b::uuid[], %b::bigint[]) AS s (id, version) CROSS JOIN LATERAL ("
            "SELECT * FROM events WHERE originator_id = s.id AND originator_version > s.version"
            " ORDER BY originator_version LIMIT %b) AS e",
            (list(versions), list(versions.values()), limit),
            binary=True,
        )
        return curs.fetchall()

    def select_snapshots(self, curs: Cursor[Any], stream_ids: Sequence[UUID]) -> list[tuple[UUID, bytes]]:
        """(stream, state) of the snapshots there are."""
        curs.execute(
            "SELECT originator_id, state FROM snapshots WHERE originator_id = ANY(%b)", (list(stream_ids),), binary=True
        )
        return curs.fetchall()

    def keep_snapshots(self, snapshots: Sequence[tuple[UUID, int, bytes]]) -> None:
        """Keeps each (stream, version, state), unless a newer one of its stream is there."""
        with self.datastore.get_connection() as connection:
            connection.execute(
                "INSERT INTO snapshots AS kept (originator_id, originator_version, state)"
                " SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::bytea[])"
                " ON CONFLICT (originator_id) DO UPDATE SET originator_version = excluded.originator_version,"
                " state = excluded.state WHERE kept.originator_version < excluded.originator_version",
                tuple(list(column) for column in zip(*snapshots, strict=True)),
            )

    def select_items(self, curs: Cursor[Any], items: Sequence[tuple[UUID, str]]) -> list[tuple[UUID, str, str, bytes]]:
        """Every row that names one of these items: (stream, item, topic, state), in order."""
        curs.execute(
            "SELECT i.stream, i.item, e.topic, e.state FROM unnest(%b::uuid[], %b::text[]) AS i (stream, item)"
            " CROSS JOIN LATERAL (SELECT * FROM events WHERE originator_id = i.stream AND item_id = i.item"
            " ORDER BY originator_version LIMIT 100) AS e",
            ([stream for stream, _ in items], [item for _, item in items]),
            binary=True,
        )
        return curs.fetchall()

    def drop_keys(self, before: datetime, most: int) -> int:
        """Drops idempotency keys whose answers were kept before then, at most so many, and returns how many."""
        with self.datastore.get_connection() as connection:
            dropped = connection.execute(
                "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY("
                "SELECT ctid FROM idempotency_keys WHERE recorded_at < %b LIMIT %b FOR UPDATE SKIP LOCKED))",
                (before, most),
            )
            return dropped.rowcount

    def create_table(self) -> None:
        """Creates nothing: see `migrate`."""


_TYPES = (
    *("uuid[]", "bigint[]"),  # held
    "append_row[]",
    *("int[]", "text[]", "uuid[]", "int[]", "text[]", "uuid[]"),  # replies
    *("int[]", "text[]", "bytea[]", "bytea[]", "timestamptz"),  # keys
)
_INSERT = f"SELECT append_at_once({', '.join(f'%b::{kind}' for kind in _TYPES)})"
_INSERT_AT_ONCE = f"SELECT append_at_once({', '.join(f'${number}' for number in range(1, len(_TYPES) + 1))})"


def parameters(write: Write) -> list[Encoded]:
    """What `append_at_once` is called with."""
    decided_on = [columns.uuids(list(write.held)), columns.bigints(list(write.held.values())), append_rows(write.rows)]
    return [*decided_on, *(_beside(write) if write.has_more else _NOTHING), columns.timestamp(write.keys_since)]


def _beside(write: Write) -> list[Encoded]:
    """What is written beside the rows: replies, and first answers."""
    answers = write.answers
    return [
        columns.ints([row for row, _ in write.responses]),
        columns.texts([response_id for _, response_id in write.responses]),
        columns.uuids([write.owner]),
        columns.ints([row for row, _ in write.over]),
        columns.texts([response_id for _, response_id in write.over]),
        columns.uuids(write.deleted),
        columns.ints([answer.row for answer in answers]),
        columns.texts([answer.key for answer in answers]),
        columns.byteas([answer.fingerprint for answer in answers]),
        columns.byteas([answer.body for answer in answers]),
    ]


_NOTHING = _beside(Write([]))
"""Of most batches."""


def _as_row(event: StoredEvent) -> Row:
    """One of the library's own events, with nothing in our columns, and chained to nothing."""
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
