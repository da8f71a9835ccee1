"""Limits how long a client may keep a connection waiting, and how many large answers a server makes at a time.

A connection is closed when its client

- sends no new request for `idle_seconds` (not on a WebSocket)
- has not sent all of a request's head `head_seconds` after its first byte
- sends nothing for `body_seconds` in the middle of a body or message that the server wants to read
- reads nothing of an answer for `write_seconds`, or `crowded_write_seconds` while clients have more than
  `max_unread_bytes` to read

An answer stays in memory until the client has read it. So a large answer needs a turn, and no turn begins while
clients have more than `max_unread_bytes` to read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from msgspec import Struct

from infrastructure.http.errors import ApiError
from infrastructure.http.tenant_turns import TenantTurns


class Connection(Protocol):
    """What `Connections` uses of a connection."""

    loop: asyncio.AbstractEventLoop

    @property
    def unread_bytes(self) -> int: ...

    def check(self, now: float, write_seconds: float) -> None: ...


class ReadWatch:
    """Measures for how long a client has read nothing, in seconds of the event loop's clock."""

    def __init__(self, now: float) -> None:
        self._read_at = now
        self._unread_before = 0

    def client_has_read(self, now: float) -> None:
        self._read_at = now

    def seconds_without_reading(self, unread_bytes: int, now: float) -> float:
        """0 if the client has read everything, or if fewer bytes are unread than at the last call."""
        if unread_bytes == 0 or unread_bytes < self._unread_before:
            self._read_at = now
        self._unread_before = unread_bytes
        return now - self._read_at


class Limits(Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes."""

    idle_seconds: float = 75.0
    """Longer than the idle time of proxies (nginx: 60 s), so that proxies use no connection that is being closed."""

    head_seconds: float = 15.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    crowded_write_seconds: float = 2.0
    max_unread_bytes: int = 48 * 1024 * 1024
    large_answers: int = 3
    """How many large answers are made at a time."""

    large_answers_of_tenant: int = 2
    """How many large answers are made at a time for one tenant."""

    large_answer_wait_seconds: float = 10.0
    check_seconds: float = 1.0
    """A connection may be kept this much longer than its limit."""


class Connections:
    """The connections of one server."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._turns = TenantTurns(self.limits.large_answers, self.limits.large_answers_of_tenant)
        self._unread_changed = asyncio.Event()
        self._compression_turn = asyncio.Semaphore(1)
        self._uncompressed_bytes = 0

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(self.limits.check_seconds, self._check, connection.loop)

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._unread_changed.set()
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def unread_bytes(self) -> int:
        """Bytes of answers in this process's memory: not yet read by clients, or not yet compressed."""
        return self._uncompressed_bytes + sum(connection.unread_bytes for connection in self._open)

    def client_has_read(self) -> None:
        """Call when a client has read most of what was sent to it."""
        self._unread_changed.set()

    @asynccontextmanager
    async def large_answer(self, tenant: str) -> AsyncIterator[None]:
        """A turn to make a large answer. Raises ApiError (503) if none begins in time."""
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(self.limits.large_answer_wait_seconds):
                    await turn.enter_async_context(self._turns.turn(tenant))
                    await self._wait_for_room()
            except TimeoutError as error:
                message = (
                    "Too many large answers are being made, or wait for clients to read them. Retry, or ask for less."
                )
                raise ApiError(503, message, code="too_many_large_answers") from error
            yield

    @asynccontextmanager
    async def compression(self, size: int) -> AsyncIterator[None]:
        """A turn to compress an answer. The answer counts as unread until its turn ends."""
        self._uncompressed_bytes += size
        try:
            async with self._compression_turn:
                yield
        finally:
            self._uncompressed_bytes -= size
            self._unread_changed.set()

    async def _wait_for_room(self) -> None:
        while self.unread_bytes() > self.limits.max_unread_bytes:
            self._unread_changed.clear()
            await self._unread_changed.wait()

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        is_crowded = self.unread_bytes() > self.limits.max_unread_bytes
        write_seconds = self.limits.crowded_write_seconds if is_crowded else self.limits.write_seconds
        now = loop.time()
        for connection in list(self._open):
            connection.check(now, write_seconds)
        self._unread_changed.set()
        self._timer = loop.call_later(self.limits.check_seconds, self._check, loop)
