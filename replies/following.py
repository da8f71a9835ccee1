"""Following a reply from any process: its live tail while it runs, the rest of its record when that is not to be had."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import psycopg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infrastructure.http.serve import stopping
from replies import live_events, stream_events
from replies.live_events import MissingEntries
from replies.record import Record

FIRST_PAUSE_SECONDS = 0.02
MAX_PAUSE_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0

log = structlog.get_logger(__name__)

Look = Callable[[], Awaitable[Record]]
"""Reads the reply's record anew."""


async def follow(redis: Redis, look: Look, record: Record, after: int) -> AsyncIterator[bytes]:
    """The events past `after`, each once and in order, to the reply's end or this process's; comments while nothing comes.

    `record` is what `look` gave last. Raises what `look` raises, but for a log that is away: it will be back.
    """
    spoke = time.monotonic()
    pause = FIRST_PAUSE_SECONDS
    while not stopping.is_set():
        if record.end is not None:
            if rest := record.stream(after):
                yield b"".join(rest)
            return
        try:
            async for sequence, sent in live_events.tail(redis, record.response_id, after):
                yield sent
                after, spoke, pause = sequence, time.monotonic(), FIRST_PAUSE_SECONDS
                if stream_events.is_terminal(sent):
                    return
        except (MissingEntries, RedisError, OSError) as error:
            log.debug("live_tail_lost", response_id=record.response_id, error_type=type(error).__name__)
            await asyncio.sleep(pause)  # nothing tells of the end but the record
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        if time.monotonic() - spoke >= HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            spoke = time.monotonic()
        with suppress(psycopg.OperationalError):  # without the log the tail goes on; only its end is not seen
            record = await look()


async def until_over(look: Look, record: Record, seconds: float) -> Record:
    """The record once the reply has ended, or as it is when so much time has passed."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while record.end is None and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
        record = await look()
    return record
