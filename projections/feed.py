"""Reads the log in batches for the view updaters of one process, and notifies them of appends.

All views that keep up need the same newest events, so these are read and decoded only once: the last batches are kept.
"""

import asyncio
from bisect import bisect_right
from collections import deque

import psycopg
import structlog
from msgspec import Struct
from psycopg import AsyncConnection, sql

from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged, UnreadableRecord
from infrastructure.event_log.recorder import CHANNEL

BATCH_EVENTS = 1_000
BATCH_BYTES = 16 * 1024 * 1024
_KEPT_BATCHES = 4
_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger(__name__)


class Batch(Struct, frozen=True):
    """All events of the log after the position `after`, up to the last one in `events`, in order."""

    after: int
    events: list[Logged]

    @property
    def end(self) -> int:
        """The position of its last event."""
        return self.events[-1].position if self.events else self.after


class Feed:
    """The log, in batches."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._kept: deque[Batch] = deque(maxlen=_KEPT_BATCHES)
        self._reading = asyncio.Lock()
        self.head = 0
        """The highest position seen."""

    async def after(self, position: int, *, until: int | None = None, limit: int = BATCH_EVENTS) -> Batch:
        """At most `limit` events after `position`, up to `until`; none at the end of the log.

        An event that cannot be decoded is an UnreadableRecord. Raises psycopg.Error.
        """
        async with self._reading:
            batch = self._kept_after(position)
            if batch is None:
                events = await self._reader.batch_logged(position, limit=limit, max_bytes=BATCH_BYTES, until=until)
                batch = Batch(position, events)
                self.head = max(self.head, batch.end)
                if until is None and events:
                    self._keep(batch)
        return _cut(batch, until, limit)

    async def last_position(self) -> int:
        """The position of the newest event. Raises psycopg.Error."""
        last = await self._reader.last_position()
        if last < self.head:
            self._kept.clear()  # the log has lost its last events: those that were read before must not be written
        self.head = last
        return last

    def _keep(self, batch: Batch) -> None:
        """Keeps a batch that continues the kept ones or is newer."""
        if any(isinstance(logged, UnreadableRecord) for logged in batch.events):
            return  # the next read may succeed
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
    """Notifies any number of waiters, again and again. `count`: how many notifications there were."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()
        self.count = 0

    def notify(self) -> None:
        """Wakes all waiters."""
        self.count += 1
        self._notified.set()
        self._notified = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Returns True as soon as `count` differs from `seen`, False after `seconds`."""
        if self.count != seen:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        except TimeoutError:
            return False
        return True


class AppendNotifications(Signal):
    """Notifies of appends to the log while `listen` runs. It receives them from Postgres, with LISTEN."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__()
        self._postgres_url = postgres_url
        self.listening = False

    async def listen(self) -> None:
        """Listens until cancelled, on its own connection. Reconnects whenever that is lost."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self.listening, pause = True, _FIRST_PAUSE
                    log.info("append_listener_connected")
                    self.notify()  # for events appended before the LISTEN
                    async for _ in connection.notifies():
                        self.notify()
            except psycopg.Error as error:
                if self.listening:
                    log.warning("append_listener_disconnected", error_type=type(error).__name__)
            finally:
                self.listening = False
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
