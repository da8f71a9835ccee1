"""Follows a reply from any process: its live events while it runs, and its record once it has ended or Redis has lost them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import psycopg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from replies import live_events, stream_events
from replies.live_events import MissingEntries
from replies.record import Record

FIRST_PAUSE_SECONDS = 0.02
MAX_PAUSE_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0

log = structlog.get_logger(__name__)

ReadRecord = Callable[[], Awaitable[Record]]
"""Reads the reply's record again."""


async def follow(
    redis: Redis, read: ReadRecord, record: Record, after: int, shutdown: threading.Event
) -> AsyncIterator[bytes]:
    """The events after `after`, each once and in order, until the reply ends or `shutdown` is set; comments while there are none.

    `record` is what `read` returned last. Raises what `read` raises, but not psycopg.OperationalError: while the log is unavailable, it waits.
    """
    sent_at = time.monotonic()
    pause = FIRST_PAUSE_SECONDS
    while not shutdown.is_set():
        if record.end is not None:
            if remaining := record.encoded_events(after):
                yield b"".join(remaining)
            return
        try:
            async for sequence, event in live_events.read_events(redis, record.response_id, after):
                yield event
                after, sent_at, pause = sequence, time.monotonic(), FIRST_PAUSE_SECONDS
                if stream_events.is_terminal(event):
                    return
        except (MissingEntries, RedisError, OSError) as error:
            log.debug("live_events_lost", response_id=record.response_id, error_type=type(error).__name__)
            await asyncio.sleep(pause)  # while Redis lacks events, only the record can show the end
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        if time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            sent_at = time.monotonic()
        # Live events do not need the log. While it is unavailable, only the end may be missed.
        with suppress(psycopg.OperationalError):
            record = await read()


async def until_ended(read: ReadRecord, record: Record, seconds: float) -> Record:
    """The record once the reply has ended, or as it is after `seconds`. Raises what `read` raises."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while record.end is None and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
        record = await read()
    return record
