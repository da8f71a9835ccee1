"""The events of running replies in Redis, so that other processes can follow a reply.

    stream:{response_id}   STREAM, one entry per event: id `1-{sequence_number}`, field `d` the encoded event

The stream expires some time after its newest event. Redis may lose entries at any time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import NoScriptError, RedisError

from infrastructure.cancellation import raise_if_cancelled
from replies import stream_events

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

KEPT_SECONDS = 3600
"""How long events are kept after the newest event. A model may reason for many minutes before its next event."""

KEPT_AFTER_SECONDS = 600
"""How long events are kept after the reply's end. Later, the events are made from the reply's record."""

MAX_QUEUED_BYTES = 32 * 1024 * 1024
"""If more bytes wait, further events are not written. The record will have their content."""

PAUSE_SECONDS = 0.002
"""The shortest time between the starts of two rounds of writes."""

WRITE_TIMEOUT_SECONDS = 0.5

RETRY_SECONDS = 1.0

MAX_BATCH_EVENTS = 512

_APPEND = """
for n, stream in ipairs(KEYS) do
  local first = 3 * n - 2
  local added = redis.pcall('XADD', stream, '1-' .. ARGV[first], 'd', ARGV[first + 1])
  local problem = type(added) == 'table' and added.err or ''
  if string.find(problem, 'WRONGTYPE', 1, true) then
    redis.call('DEL', stream)
    redis.call('XADD', stream, '1-' .. ARGV[first], 'd', ARGV[first + 1])
  elseif problem ~= '' and not string.find(problem, 'equal or smaller', 1, true) then
    return added
  end
  redis.call('EXPIRE', stream, ARGV[first + 2])
end
"""
# One call for a batch, because the client needs longer to parse a thousand answers than Redis to run the commands. On a
# retry, Redis refuses the entries of the first try. The script ends at any other error, because the
# error would concern all streams.

OnWritten = Callable[[int], None]
"""Called with the number of the newest event that clients may see."""

log = structlog.get_logger(__name__)


def stream_key(response_id: str) -> str:
    return f"stream:{response_id}"


class LiveWriter:
    """Writes the events of this process's replies over one connection. `write` never raises or waits.

    Clients see an event only after `on_written`. So if Redis is available and fast enough, a process that dies loses no
    event that a client has seen.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool = redis.connection_pool
        self._connection: AbstractConnection | None = None
        self._script = redis.register_script(_APPEND).sha
        self._queued: deque[tuple[str, int, bytes, OnWritten]] = deque()
        self._queued_bytes = 0
        self._unavailable_until = 0.0
        self._failing = False
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._queued:
            await self._write()
        if self._connection is not None:
            await self._connection.disconnect()
            await self._pool.release(self._connection)

    def write(self, response_id: str, sequence: int, event: bytes, on_written: OnWritten) -> None:
        """`on_written` gets the number of this event, or of a later one."""
        if self._queued_bytes > MAX_QUEUED_BYTES or time.monotonic() < self._unavailable_until:
            on_written(sequence)
            return
        self._queued.append((response_id, sequence, event, on_written))
        self._queued_bytes += len(event)
        self._ready.set()

    async def remove(self, response_id: str) -> None:
        """If Redis is unavailable, the events stay. No client gets these events, because a stream starts only
        after the record was read.
        """
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await self._redis.unlink(stream_key(response_id))
        except (RedisError, OSError) as error:
            log.warning("live_events_not_removed", response_id=response_id, error_type=type(error).__name__)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        wrote_at = 0.0
        while True:
            await self._ready.wait()
            # The pause lets events gather, because a round trip costs as much as a dozen events.
            await asyncio.sleep(max(0.0, wrote_at + PAUSE_SECONDS - loop.time()))
            self._ready.clear()
            wrote_at = loop.time()
            while self._queued:
                await self._write()
                raise_if_cancelled()

    async def _write(self) -> None:
        batch = [self._queued.popleft() for _ in range(min(MAX_BATCH_EVENTS, len(self._queued)))]
        self._queued_bytes -= sum(len(event) for _, _, event, _ in batch)
        arguments: list[bytes | str | int] = [len(batch), *(stream_key(response_id) for response_id, _, _, _ in batch)]
        for _, sequence, event, _ in batch:
            seconds = KEPT_AFTER_SECONDS if stream_events.is_terminal(event) else KEPT_SECONDS
            arguments += (sequence, event, seconds)
        try:
            await self._append(arguments)
        except Exception as error:  # noqa: BLE001 - if this task ended, every stream would stop
            self._unavailable_until = time.monotonic() + RETRY_SECONDS
            if not self._failing:
                log.warning("live_events_not_written", error_type=type(error).__name__)
            self._failing = True
        else:
            if self._failing:
                log.info("live_events_written_again")
            self._failing = False
        finally:
            newest = {response_id: (on_written, sequence) for response_id, sequence, _, on_written in batch}
            for on_written, sequence in newest.values():
                on_written(sequence)

    async def _append(self, arguments: list[bytes | str | int]) -> None:
        """Tries again if the connection was broken or Redis no longer has the script."""
        try:
            await self._call("EVALSHA", self._script, *arguments)
        except (BrokenConnection, NoScriptError):
            await self._call("EVAL", _APPEND, *arguments)

    async def _call(self, *command: bytes | str | int) -> None:
        """Uses a bare connection, because the layers of the client library take longer than Redis."""
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            if self._connection is None:
                self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call] # the library has no types here
            await self._connection.send_command(*command, check_health=False)
            await self._connection.read_response()


async def events_so_far(redis: Redis, response_id: str) -> list[bytes]:
    """The events up to the end, or up to the first missing event. Raises RedisError."""
    events: list[bytes] = []
    while True:
        entries: Any = await redis.xrange(stream_key(response_id), min=f"1-{len(events)}", count=MAX_BATCH_EVENTS)
        for entry_id, fields in entries:
            if int(entry_id.partition(b"-")[2]) != len(events):
                return events
            events.append(fields[b"d"])
        if len(entries) < MAX_BATCH_EVENTS:
            return events
