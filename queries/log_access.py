"""Reads the event log for queries. Requests read conversations through `principal_log.py`.

Reads of views continue without Postgres, so a lookup must not wait long for Postgres. A lookup fails about
LOOKUP_TIMEOUT_SECONDS after its turn began, and at once while Postgres is known to be unavailable.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolClosed, PoolTimeout

from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.incarnation import LogCheck, LogPosition
from infrastructure.event_log.reader import EventReader, PartitionHolder
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import ApiError
from infrastructure.http.tenant_turns import TenantTurns
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.stores.postgres import Pool

log = structlog.get_logger(__name__)

LOOKUP_TIMEOUT_SECONDS = 2.0
QUEUE_TIMEOUT_SECONDS = 10.0
PING_TIMEOUT_SECONDS = 0.5
LATE_TURNS = 20
LATE_TURN_SECONDS = 0.002
"""After the timeout, the event loop runs a few more times: Postgres may have answered, and a busy loop has not read it yet."""

PROBE_INTERVAL_SECONDS = 0.25
CLOSE_TIMEOUT_SECONDS = 0.5

_NO_CONVERSATION = conversation_id_of(UUID(int=0))

T = TypeVar("T")
Lookup = Callable[[EventReader], Awaitable[T]]


class PostgresUnavailable(psycopg.OperationalError):
    """Postgres cannot be reached, or did not answer in time."""


def conversation_parked() -> ApiError:
    """The error for a parked conversation. It is also used if an event cannot be decoded."""
    return ApiError(
        503,
        "An event of this conversation could not be read or applied. The conversation cannot be read until it is repaired.",
        code="conversation_parked",
        headers={"retry-after": "60"},
    )


def _reads_waiting() -> LogBusy:
    return LogBusy("Too many reads of the event store are waiting, or this one took too long.")


class LogAccess:
    """The log of all tenants. `close` it before its pool.

    Any lookup may raise PostgresUnavailable, LogBusy, or ApiError 503 if an event cannot be decoded.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._turns = TenantTurns(pool.max_size, max(1, 3 * pool.max_size // 4))
        self._reader = EventReader(pool)
        self._probe: asyncio.Task[None] | None = None
        self._lookups: set[asyncio.Task[Any]] = set()

    async def end(self) -> LogPosition:
        return await self.look_up(EventReader.end)

    async def end_of_tenant(self, tenant: str) -> LogPosition:
        return await self.look_up_version(lambda reader: reader.end_of_tenant(tenant))

    async def check(self, positions: Iterable[int]) -> LogCheck:
        return await self.look_up(lambda reader: reader.check(positions))

    async def recorded_after(self, position: int) -> datetime | None:
        """When the first event after this position was recorded."""
        events = await self.look_up(lambda reader: reader.batch_logged(position, limit=1, max_bytes=1))
        return events[0].recorded_at if events else None

    async def head_of_each(self, conversation_ids: Sequence[str]) -> list[Head | None]:
        """At most MAX_BATCH_LOOKUPS conversations. None: never started."""
        return await self.look_up_version(lambda reader: reader.head_of_each(conversation_ids))

    async def partition_holders(self) -> list[PartitionHolder]:
        """The projectors that hold partitions, alive or dead. A partition without a registered projector is left out."""
        return await self.look_up(EventReader.partition_holders)

    @property
    def is_unavailable(self) -> bool:
        """Whether Postgres is known to be unavailable, because it has not answered the probe yet."""
        return self._probe is not None and not self._probe.done()

    async def look_up(self, lookup: Lookup[T], tenant: str = "") -> T:
        """Raises LogBusy if the lookup gets no turn in time, or if Postgres is available but too slow.

        `tenant`: the tenant whose turn the lookup takes. There are as many turns as the pool has connections. So a lookup
          that has its turn rarely waits for a connection.
        """
        if self.is_unavailable:
            raise PostgresUnavailable
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(QUEUE_TIMEOUT_SECONDS):
                    await stack.enter_async_context(self._turns.turn(tenant))
            except TimeoutError:
                raise _reads_waiting() from None
            return await self.look_up_version(lookup)

    async def look_up_version(self, lookup: Lookup[T]) -> T:
        """As `look_up`, without waiting for a turn. For lookups that need no connection of the pool."""
        if self.is_unavailable:
            raise PostgresUnavailable
        try:
            return await self._with_timeout(lookup, LOOKUP_TIMEOUT_SECONDS)
        except UnreadableEvent as error:
            raise conversation_parked() from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # If Postgres answers a ping, only this lookup is slow, or cancelled lookups hold the connections.
            if isinstance(error, PostgresUnavailable | PoolTimeout) and await self._answers_ping():
                raise _reads_waiting() from error
            if not self.is_unavailable:
                log.warning("postgres_unavailable", error_type=type(error).__name__)
                self._probe = asyncio.create_task(self._probe_until_available())
            raise PostgresUnavailable from error

    async def close(self) -> None:
        running = self._lookups | ({self._probe} if self._probe else set())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CLOSE_TIMEOUT_SECONDS)

    async def _with_timeout(self, lookup: Lookup[T], seconds: float) -> T:
        """Raises PostgresUnavailable at the timeout. Does not wait for the lookup's end, which a frozen server would delay."""
        task = asyncio.create_task(self._with_retry(lookup))
        self._lookups.add(task)
        task.add_done_callback(self._lookup_done)
        try:
            await asyncio.wait({task}, timeout=seconds)
            for _ in range(LATE_TURNS):
                if task.done():
                    break
                await asyncio.wait({task}, timeout=LATE_TURN_SECONDS)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            raise PostgresUnavailable
        return task.result()

    async def _with_retry(self, lookup: Lookup[T]) -> T:
        """Retries once, because a connection may have broken while it was idle."""
        try:
            return await lookup(self._reader)
        except (PoolTimeout, PoolClosed):
            raise
        except psycopg.OperationalError:
            await self._pool.check()
            return await lookup(self._reader)

    async def _probe_until_available(self) -> None:
        while True:
            with suppress(psycopg.Error):
                await self._with_timeout(EventReader.last_position, LOOKUP_TIMEOUT_SECONDS)
                break
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        log.info("postgres_available")

    async def _answers_ping(self) -> bool:
        try:
            await self._with_timeout(lambda reader: reader.head(_NO_CONVERSATION), PING_TIMEOUT_SECONDS)
        except psycopg.Error:
            return False
        return True

    def _lookup_done(self, task: asyncio.Task[Any]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that nobody retrieves, and the caller may have given up
