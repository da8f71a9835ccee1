"""Reads the log, one conversation after another. Checks hash chains, versions and times, and decodes the events."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from psycopg import sql

from infrastructure.event_log.chain import GENESIS, chain_hash, length_prefixed
from infrastructure.event_log.codec import UnreadableEvent, decode
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import conversation_id, uuid_of
from infrastructure.stores.postgres import Pool
from scripts.verification.differences import Difference, DifferenceKind

_PAGE_ROWS = 4_000
_PAGE_BYTES = 32 * 1024 * 1024
_FIRST = (UUID(int=0), 0)

_COLUMNS = sql.SQL(
    "originator_id, originator_version, notification_id, topic, state, tenant_id, item_id, recorded_at, subject,"
    " command_id, correlation_id, chain_hash"
)
_PAGE = sql.SQL(
    "SELECT {0} FROM (SELECT {0}, sum(octet_length(state)) OVER (ORDER BY originator_id, originator_version)"
    " - octet_length(state) AS before FROM events WHERE (originator_id, originator_version) > (%s, %s)"
    " AND originator_id = coalesce(%s, originator_id) ORDER BY originator_id, originator_version LIMIT %s) AS page"
    " WHERE before < %s ORDER BY originator_id, originator_version"
).format(_COLUMNS)


class Row(Struct, frozen=True):
    originator_id: UUID
    version: int
    position: int
    topic: str
    state: bytes
    tenant: str
    item_id: str | None
    recorded_at: datetime
    subject: str
    command_id: UUID | None
    correlation_id: str
    chain_hash: bytes


class Stream:
    """The rows of one conversation. `events` ends before the first event that cannot be decoded."""

    def __init__(self, first: Row) -> None:
        self.conversation_id = conversation_id(first.originator_id)
        self.tenant = first.tenant
        self._owner = first.subject if first.version == 1 else ""
        self.events: list[Recorded] = []
        self.chain_hashes: dict[int, bytes] = {}
        """By version."""
        self.rows = 0
        self.differences: list[Difference] = []
        self._previous: Row | None = None
        self.readable = True

    def add(self, row: Row) -> None:
        self._check(row)
        self.chain_hashes[row.version] = row.chain_hash
        self.rows += 1
        self._previous = row
        if not self.readable:
            return
        try:
            event = decode(row.topic, row.state)
        except UnreadableEvent as error:
            self.readable = False
            self._differs("unreadable", row, str(error))
            return
        recorded = Recorded(
            position=row.position,
            conversation_id=self.conversation_id,
            version=row.version,
            tenant=row.tenant,
            recorded_at=row.recorded_at,
            subject=row.subject,
            correlation_id=row.correlation_id,
            event=event,
            chain_hash=row.chain_hash.hex(),
            owner=self._owner,
        )
        self.events.append(recorded)

    def until(self, position: int) -> Sequence[Recorded]:
        if not self.events or self.events[-1].position <= position:
            return self.events
        return [recorded for recorded in self.events if recorded.position <= position]

    def _check(self, row: Row) -> None:
        previous = self._previous
        if row.version != (previous.version if previous else 0) + 1:
            self._differs("version", row, f"follows version {previous.version if previous else 0}")
        if previous and row.recorded_at < previous.recorded_at:
            self._differs("time", row, f"{row.recorded_at.isoformat()} follows {previous.recorded_at.isoformat()}")
        if previous and row.position <= previous.position:
            self._differs("version", row, f"position {row.position} follows {previous.position}")
        if row.tenant != self.tenant:
            self._differs("tenant", row, f"another tenant than the first row, which has {self.tenant}")
        columns = length_prefixed(
            originator_id=row.originator_id,
            version=row.version,
            topic=row.topic,
            state=row.state,
            tenant=row.tenant,
            item_id=row.item_id,
            recorded_at=row.recorded_at,
            subject=row.subject,
            command_id=row.command_id,
            correlation_id=row.correlation_id,
        )
        expected = chain_hash(previous.chain_hash if previous else GENESIS, columns)
        if row.chain_hash != expected:
            self._differs("chain", row, f"expected {expected.hex()[:16]}, found {row.chain_hash.hex()[:16]}")

    def _differs(self, what: DifferenceKind, row: Row, note: str) -> None:
        self.differences.append(Difference("log", what, self.conversation_id, version=row.version, note=note))


class Streams:
    """Reads conversations in the order of their ids, page by page."""

    def __init__(self, pool: Pool, only: str | None = None) -> None:
        self._pool = pool
        self._only = uuid_of(only) if only else None
        self._after = _FIRST

    async def next(self) -> list[Stream]:
        """The next page, with all rows of each conversation. Empty at the end."""
        streams: list[Stream] = []
        after = self._after
        while True:
            count = 0
            async for row in self._rows(after):
                count += 1
                after = (row.originator_id, row.version)
                if not streams or streams[-1].conversation_id != conversation_id(row.originator_id):
                    streams.append(Stream(row))
                streams[-1].add(row)
            if not count:
                break
            if len(streams) > 1:
                # The last conversation may continue on the next page. The next call reads this conversation from its
                # start.
                last = streams.pop()
                after = (uuid_of(last.conversation_id), 0)
                break
        self._after = after
        return streams

    async def _rows(self, after: tuple[UUID, int]) -> AsyncIterator[Row]:
        async with self._pool.connection() as connection:
            parameters = (*after, self._only, _PAGE_ROWS, _PAGE_BYTES)
            cursor = await connection.execute(_PAGE, parameters, binary=True)
            rows = await cursor.fetchall()
        for row in rows:
            yield Row(*row)  # type: ignore[arg-type]  # _COLUMNS gives the types
