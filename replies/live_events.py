"""The live tail of replies in Redis: what runs in one process is followed from any other.

    stream:{response_id}   STREAM, an entry for each event of the reply's stream: its id is `1-{sequence_number}`, its field `d`
                           the event as it is sent

A stream is written by the process that runs the reply, and goes some time after its end. Redis may lose it at any time: what
follows a hole is not read (`Hole`), and a follower waits for the record of the whole instead. Both sides import this.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import NoScriptError

from replies import stream_events

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

KEPT_SECONDS = 3600
"""How long a stream that grows no more is kept: a reply's provider may think for long between two pieces."""

KEPT_AFTER_SECONDS = 600
"""How long a stream is kept after its reply's end; later, its events are made again from the record."""

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Of events that wait to be written. While Redis is slow or away, what is more is not kept: the record has it all in the end."""

PAUSE_SECONDS = 0.002
"""From one write to the next, at least."""

ANSWER_SECONDS = 0.5
"""How long Redis may take over a write; then it is away."""

AWAY_SECONDS = 1.0
"""For how long Redis is not written to when it was away."""

BLOCK_MILLISECONDS = 1_000
AT_ONCE = 512

_APPEND = """
for n, stream in ipairs(KEYS) do
  local at = 3 * n - 2
  redis.pcall('XADD', stream, '1-' .. ARGV[at], 'd', ARGV[at + 1])
  redis.call('EXPIRE', stream, ARGV[at + 2])
end
"""
# One call for a whole batch: the client takes longer over the answers to a thousand commands than Redis over the commands. What a first try
# had written already is refused, by its id, when it is tried again.

Written = Callable[[int], None]
"""Is told the number of the newest event that Redis has."""

log = structlog.get_logger(__name__)


def key(response_id: str) -> str:
    """The key of a reply's stream."""
    return f"stream:{response_id}"


class MissingEntries(Exception):
    """Redis does not have what comes next, though it may have what comes later."""


class LiveWriter:
    """Writes the events of this process's replies, all that wait in one round trip, over a connection of its own. Never raises, never waits.

    Whoever wrote an event is told when Redis has it: a client should have seen nothing that is lost when this process dies. While
    Redis is away they are told at once.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._connection: AbstractConnection | None = None
        self._script = redis.register_script(_APPEND).sha
        self._waiting: deque[tuple[str, int, bytes, Written]] = deque()
        self._bytes = 0
        self._away_until = 0.0
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Writes what waits, if Redis takes it."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            await self._write()
        if self._connection is not None:
            await self._connection.disconnect()
            await self._pool.release(self._connection)

    def write(self, response_id: str, sequence: int, sent: bytes, written: Written) -> None:
        """Puts an event in line; `written` is called with its number when nobody need wait for it any more."""
        if self._bytes > MAX_WAITING_BYTES or time.monotonic() < self._away_until:
            written(sequence)
            return
        self._waiting.append((response_id, sequence, sent, written))
        self._bytes += len(sent)
        self._ready.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        wrote = 0.0
        while True:
            await self._ready.wait()
            # A lone event goes at once; a crowd of them shares a round trip, whose cost is that of a dozen events.
            await asyncio.sleep(max(0.0, wrote + PAUSE_SECONDS - loop.time()))
            self._ready.clear()
            wrote = loop.time()
            while self._waiting:
                await self._write()

    async def _write(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        self._bytes -= sum(len(sent) for _, _, sent, _ in batch)
        told: list[bytes | str | int] = [len(batch), *(key(response_id) for response_id, _, _, _ in batch)]
        for _, sequence, sent, _ in batch:
            seconds = KEPT_AFTER_SECONDS if stream_events.is_terminal(sent) else KEPT_SECONDS
            told += (sequence, sent, seconds)
        try:
            await self._append(told)
        except Exception as error:  # noqa: BLE001 - whatever it is: without this task every stream would stand still
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("live_events_not_written", events=len(batch), error_type=type(error).__name__)
        finally:
            newest = {response_id: (written, sequence) for response_id, sequence, _, written in batch}
            for written, sequence in newest.values():
                written(sequence)

    async def _append(self, told: list[bytes | str | int]) -> None:
        """The script's call; another where the connection had broken, or Redis has forgotten the script."""
        try:
            await self._call("EVALSHA", self._script, *told)
        except (BrokenConnection, NoScriptError):
            await self._call("EVAL", _APPEND, *told)

    async def _call(self, *command: bytes | str | int) -> None:
        """One round trip. What a client's layers do around it takes longer than Redis does, some hundred times a second."""
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._connection is None:
                self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call] # the library's
            await self._connection.send_command(*command, check_health=False)
            await self._connection.read_response()


async def tail(redis: Redis, response_id: str, after: int) -> AsyncIterator[tuple[int, bytes]]:
    """The events past `after` as they come, each with its sequence number; ends with the terminal one, or when none came for a second.

    Raises Hole where Redis has lost some, RedisError when it is away.
    """
    while True:
        start = f"1-{after}" if after >= 0 else "0"
        answer: Any = await redis.xread({key(response_id): start}, count=AT_ONCE, block=BLOCK_MILLISECONDS)
        entries = _entries(answer)
        if not entries:
            return
        for ident, fields in entries:
            sequence = int(ident.partition(b"-")[2])
            if sequence != after + 1:
                raise MissingEntries
            after = sequence
            sent: bytes = fields[b"d"]
            yield sequence, sent
            if stream_events.is_terminal(sent):
                return


async def events_so_far(redis: Redis, response_id: str) -> list[bytes]:
    """The events of a stream from its beginning to its end or its first hole. Raises RedisError."""
    sent: list[bytes] = []
    entries: Any = await redis.xrange(key(response_id))
    for ident, fields in entries:
        if int(ident.partition(b"-")[2]) != len(sent):
            break
        sent.append(fields[b"d"])
    return sent


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream in an answer to XREAD, in either version of the protocol."""
    if not answer:
        return []
    if isinstance(answer, dict):
        [(entries,)] = answer.values()
        return list(entries)
    return list(answer[0][1])
