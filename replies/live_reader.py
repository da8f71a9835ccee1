"""Reads the live events of all replies that clients of this process follow. One XREAD reads up to a hundred replies.

The newest events are kept. A client that is further behind reads pages from Redis.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.http.stream_pages import PAGE_BYTES, SLICE_BYTES, Page, StreamPages
from replies import stream_events
from replies.live_events import stream_key

MIN_PAUSE_SECONDS: Final = 0.01
MAX_PAUSE_SECONDS: Final = 0.25
PAUSE_FACTOR: Final = 3
"""The pause after a round is this many times as long as the round, within the limits above."""

RETRY_SECONDS: Final = 0.5
BATCH_REPLIES: Final = 100
ROUND_EVENTS: Final = 64

PAGE_EVENTS: Final = 128
MAX_READS: Final = 4

log = structlog.get_logger(__name__)

Entries = Iterable[tuple[bytes, dict[bytes, bytes]]]


class MissingEntries(Exception):
    """Redis does not have the event that a client needs next."""


class FollowedReply:
    def __init__(self) -> None:
        self.clients = 0
        self.last: int | None = None
        """The number of the newest event that Redis had; -1 if there was none; None before a look-up."""
        self.retry_at = 0.0
        """The earliest time of the next look-up, by the monotonic clock."""
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved when events arrive or `last` changes, and then replaced."""
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0

    def start(self, last: int | None) -> None:
        """Drops the recent events, and continues after `last`. If `last` is None, the newest event is looked up
        again.
        """
        self._forget_recent()
        if last != self.last:
            self.last = last
            self._notify()

    def add(self, entries: Entries) -> None:
        for sequence, event in _events(entries):
            if sequence - 1 != self.last:
                self._forget_recent()
            self.last = sequence
            self._recent.append((sequence, event))
            self._recent_bytes += len(event)
            while self._recent_bytes > SLICE_BYTES:
                self._recent_bytes -= len(self._recent.popleft()[1])
        self._notify()

    def recent_page(self, after: int) -> Page | None:
        """Returns None if the event after number `after` is not among the recent events."""
        if not self._recent or not self._recent[0][0] - 1 <= after < self._recent[-1][0]:
            return None
        events = [event for sequence, event in self._recent if sequence > after]
        return Page(self._recent[-1][0], b"".join(events), ends=stream_events.is_terminal(events[-1]))

    def _forget_recent(self) -> None:
        self._recent.clear()
        self._recent_bytes = 0

    def _notify(self) -> None:
        self.changed.set_result(None)
        self.changed = asyncio.get_running_loop().create_future()


class LiveReader:
    """Reads from Redis for all clients of this process. Only `page` raises errors of Redis."""

    def __init__(self, redis: Redis, pages: StreamPages) -> None:
        self._redis = redis
        self._pages = pages
        self._followed: dict[str, FollowedReply] = {}
        self._reads = asyncio.Semaphore(MAX_READS)
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def follow(self, response_id: str) -> Iterator[FollowedReply]:
        """Reads the reply's new events until the block ends."""
        reply = self._followed.setdefault(response_id, FollowedReply())
        reply.clients += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield reply
        finally:
            reply.clients -= 1
            if reply.clients == 0:
                del self._followed[response_id]

    async def page(self, response_id: str, after: int) -> Page | None:
        """The events after number `after` of a followed reply; None if there are none yet.

        Raises MissingEntries, or RedisError or OSError when Redis is unavailable.
        """
        reply = self._followed[response_id]
        if reply.last is None or after >= reply.last:
            return None
        return reply.recent_page(after) or await self._pages.get(
            ("live", response_id, after), lambda: self._read_page(response_id, after)
        )

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._followed:
                raise_if_cancelled()
                started = time.monotonic()
                try:
                    await self._read_round()
                except (RedisError, OSError) as error:
                    log.debug("live_events_not_read", error_type=type(error).__name__)
                    await asyncio.sleep(RETRY_SECONDS)
                except Exception:
                    log.exception("live_reader_failed")
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    pause = PAUSE_FACTOR * (time.monotonic() - started)
                    await asyncio.sleep(min(max(pause, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))
        finally:
            self._task = None

    async def _read_round(self) -> None:
        started = {response_id: reply for response_id, reply in self._followed.items() if reply.last is not None}
        now = time.monotonic()
        await self._look_up_newest(
            [id_ for id_, reply in self._followed.items() if id_ not in started and reply.retry_at <= now]
        )
        response_ids = list(started)
        for first in range(0, len(response_ids), BATCH_REPLIES):
            batch = {stream_key(id_).encode(): started[id_] for id_ in response_ids[first : first + BATCH_REPLIES]}
            positions: Any = {key: f"1-{reply.last}" if reply.last != -1 else "0" for key, reply in batch.items()}
            try:
                answer = await self._redis.xread(positions, count=ROUND_EVENTS)
            except ResponseError:
                # Perhaps one of the keys is not a stream. The next round looks up each key by itself.
                for reply in batch.values():
                    reply.start(None)
                continue
            for key, entries in _streams(answer):
                batch[key].add(entries)

    async def _look_up_newest(self, response_ids: list[str]) -> None:
        for first in range(0, len(response_ids), BATCH_REPLIES):
            batch = response_ids[first : first + BATCH_REPLIES]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for response_id in batch:
                    pipeline.xrevrange(stream_key(response_id), count=1)
                answers = await pipeline.execute(raise_on_error=False)
            for response_id, entries in zip(batch, answers, strict=True):
                reply = self._followed.get(response_id)
                if reply is None:
                    continue
                if isinstance(entries, Exception):
                    reply.retry_at = time.monotonic() + RETRY_SECONDS
                else:
                    reply.start(_sequence(entries[0][0]) if entries else -1)

    async def _read_page(self, response_id: str, after: int) -> Page:
        start: Any = {stream_key(response_id): f"1-{after}" if after >= 0 else "0"}
        async with self._reads:
            answer = await self._redis.xread(start, count=PAGE_EVENTS)
        events: list[bytes] = []
        size = 0
        for _, entries in _streams(answer):
            for sequence, event in _events(entries):
                if sequence != after + len(events) + 1 or size >= PAGE_BYTES:
                    break
                events.append(event)
                size += len(event)
        if not events:
            raise MissingEntries
        return Page(after + len(events), b"".join(events), ends=stream_events.is_terminal(events[-1]))


def _streams(answer: Any) -> list[tuple[bytes, Entries]]:
    """XREAD answers differently in versions 2 and 3 of the protocol."""
    if isinstance(answer, dict):
        return [(key, entries) for key, [entries] in answer.items()]
    return [(key, entries) for key, entries in answer or ()]


def _events(entries: Entries) -> Iterator[tuple[int, bytes]]:
    for entry_id, fields in entries:
        if (event := fields.get(b"d")) is not None:
            yield _sequence(entry_id), event


def _sequence(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[2])
