"""Reads the log in commit order, in batches, and notifies of appends.

Feed keeps the newest batches, because all views that are up to date need these batches.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

import psycopg
import structlog
from msgspec import Struct
from psycopg import AsyncConnection, sql

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.incarnation import INCARNATION, LogCheck, LogPosition
from infrastructure.event_log.log_rows import COLUMNS_WITH_OWNER_SQL, PAGE, LogRows
from infrastructure.event_log.recorded import Logged, Recorded, UnreadableRecord, readable
from infrastructure.event_log.recorder import CHANNEL

BATCH_EVENTS = 1_000
BATCH_BYTES = 4 * 1024 * 1024
_KEPT_BATCHES = 4
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger(__name__)

_BATCH = sql.SQL(
    PAGE.format(
        where="notification_id > %s AND notification_id <= coalesce(%s, notification_id)", order="notification_id"
    )
)
_INCARNATION = sql.SQL(INCARNATION)
_END = sql.SQL(
    "SELECT coalesce(notification_id, 0), chain_hash, {} FROM (SELECT) AS log LEFT JOIN LATERAL"
    " (SELECT notification_id, chain_hash FROM events ORDER BY notification_id DESC LIMIT 1) AS newest ON true"
).format(_INCARNATION)
_CHECK = sql.SQL(
    "SELECT notification_id, chain_hash, {} FROM (SELECT) AS log LEFT JOIN events ON notification_id = ANY(%s)"
).format(_INCARNATION)


class OrderedReader(LogRows):
    """Reads the events of all conversations in commit order, each with its conversation's owner. Raises psycopg.Error.

    `after` and `batch` also raise UnreadableEvent.
    """

    async def last_position(self) -> int:
        """0 if the log is empty."""
        return (await self.end()).position

    async def end(self) -> LogPosition:
        """Position 0 if the log is empty."""
        [(position, chain_hash, incarnation)] = await self._rows(_END, ())
        return LogPosition(position, chain_hash.hex() if chain_hash else "", incarnation)

    async def check(self, positions: Iterable[int]) -> LogCheck:
        """What the log now has at these positions."""
        rows = await self._rows(_CHECK, (sorted(set(positions)),))
        chain_hashes = {position: chain_hash.hex() for position, chain_hash, _ in rows if position is not None}
        return LogCheck(rows[0][2], chain_hashes)

    async def after(self, position: int, *, limit: int, until: int | None = None) -> list[Recorded]:
        """Events after `position`, up to position `until`, in commit order.

        No event appears later at a passed position, because positions are assigned under the append lock.
        """
        return await self._recorded(
            sql.SQL(
                "SELECT {} FROM events WHERE notification_id > %s"
                " AND notification_id <= coalesce(%s, notification_id) ORDER BY notification_id LIMIT %s"
            ),
            (position, until, limit),
            COLUMNS_WITH_OWNER_SQL,
        )

    async def batch(self, position: int, *, limit: int, max_bytes: int, until: int | None = None) -> list[Recorded]:
        """As `after`, limited to about `max_bytes` of decompressed states, but at least one event.

        Ends before the first unreadable event. Raises UnreadableEvent if the batch begins with one.
        """
        return readable(await self.batch_logged(position, limit=limit, max_bytes=max_bytes, until=until))

    async def batch_logged(
        self, position: int, *, limit: int, max_bytes: int, until: int | None = None
    ) -> list[Logged]:
        """As `batch`, with an UnreadableRecord for each unreadable event."""
        return await self._page(_BATCH, (position, until, limit), max_bytes, COLUMNS_WITH_OWNER_SQL)


class Batch(Struct, frozen=True):
    """All events of the log after position `after`, up to the last of `events`."""

    after: int
    events: list[Logged]

    @property
    def end(self) -> int:
        return self.events[-1].position if self.events else self.after

    @property
    def incarnation(self) -> str:
        """Empty if the batch has no events."""
        return self.events[-1].incarnation if self.events else ""


class Feed:
    def __init__(self, reader: OrderedReader) -> None:
        self._reader = reader
        self._kept: deque[Batch] = deque(maxlen=_KEPT_BATCHES)
        self._reading = asyncio.Lock()
        self.head = 0

    async def after(self, position: int, *, until: int | None = None, limit: int = BATCH_EVENTS) -> Batch:
        """Events after `position`, up to position `until`. Raises psycopg.Error."""
        async with self._reading:
            batch = self._kept_after(position)
            if batch is None:
                events = await self._reader.batch_logged(position, limit=limit, max_bytes=BATCH_BYTES, until=until)
                batch = Batch(position, events)
                self.head = max(self.head, batch.end)
                if until is None and events:
                    self._keep(batch)
        return _cut(batch, until, limit)

    async def end(self) -> LogPosition:
        """Raises psycopg.Error."""
        end = await self._reader.end()
        if self._kept and self._kept[-1].incarnation != end.incarnation:
            self._kept.clear()  # the log may have lost these events
        self.head = end.position
        return end

    async def check(self, positions: Iterable[int]) -> LogCheck:
        """Raises psycopg.Error."""
        return await self._reader.check(positions)

    def _keep(self, batch: Batch) -> None:
        """Keeps the batch only if it continues the kept batches, or is newer."""
        if any(isinstance(logged, UnreadableRecord) for logged in batch.events):
            return  # the next read of these events may succeed
        if self._kept and batch.incarnation != self._kept[-1].incarnation:
            self._kept.clear()
        if self._kept and batch.after < self._kept[-1].end:
            return
        if self._kept and batch.after > self._kept[-1].end:
            self._kept.clear()
        self._kept.append(batch)

    def _kept_after(self, position: int) -> Batch | None:
        for batch in self._kept:
            if batch.after == position:
                return batch
            if batch.after < position < batch.end:
                start = bisect_right(batch.events, position, key=lambda logged: logged.position)
                return Batch(position, batch.events[start:])
        return None


def _cut(batch: Batch, until: int | None, limit: int) -> Batch:
    events = batch.events
    if until is not None and batch.end > until:
        events = events[: bisect_right(events, until, key=lambda logged: logged.position)]
    return batch if events is batch.events and len(events) <= limit else Batch(batch.after, events[:limit])


class Signal:
    """Notifies any number of waiters, again and again. `count`: the notifications so far."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()
        self.count = 0

    def notify(self) -> None:
        self.count += 1
        self._notified.set()
        self._notified = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """True as soon as `count` differs from `seen`, False after `seconds`."""
        if self.count != seen:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        except TimeoutError:
            return False
        return True


class AppendNotifications(Signal):
    """Notifies of appends to the log while `listen` runs (LISTEN)."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__()
        self._postgres_url = postgres_url
        self.listening = False

    async def listen(self) -> None:
        """Listens until cancelled. Reconnects whenever the connection is lost."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self.listening, pause = True, _FIRST_PAUSE_SECONDS
                    log.info("append_listener_connected")
                    self.notify()  # for events appended before the LISTEN
                    async for _ in connection.notifies():
                        self.notify()
            except psycopg.Error as error:
                if self.listening:
                    log.warning("append_listener_disconnected", error_type=type(error).__name__)
            finally:
                self.listening = False
            raise_if_cancelled()
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

    async def _connect(self) -> AsyncConnection[tuple[object, ...]]:
        return await AsyncConnection.connect(
            self._postgres_url,
            autocommit=True,
            connect_timeout=2,
            application_name="conversation-store projector",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )
