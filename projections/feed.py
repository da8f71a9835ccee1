"""Reads the log in batches for the view updaters of one process, and keeps the newest batches.

Every view that keeps up reads the same end of the log, so it is read and decoded only once.
"""

import asyncio
from bisect import bisect_right
from collections import deque

from msgspec import Struct

from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged, UnreadableRecord

BATCH_EVENTS = 1_000
BATCH_BYTES = 16 * 1024 * 1024
_KEPT_BATCHES = 4


class Batch(Struct, frozen=True):
    """All events after the position `after` up to that of the last one here, in order."""

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
            self._kept.clear()  # the log lost its end: what was read of it must not be written
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
