"""Postgres as the query side sees it: look-ups that end soon, and an outage that is remembered. For `queries/` only.

Reads must go on without Postgres, so no request may wait for it longer than `PATIENCE_SECONDS`, and while it is known to
be away none waits at all: one probe in the background finds out when it is back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg_pool import PoolClosed, PoolTimeout

from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import ApiError
from infrastructure.stores.postgres import Pool

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 2.0
SECOND_THOUGHT_SECONDS = 0.5
PROBE_SECONDS = 0.25

T = TypeVar("T")
Question = Callable[[EventReader], Awaitable[T]]


class LogAway(psycopg.OperationalError):
    """Postgres did not answer in time, or did not a moment ago."""


def conversation_parked() -> ApiError:
    """The answer to a read of what is set aside until someone repairs it."""
    return ApiError(
        503,
        "An event of this conversation could not be read or applied. The conversation is set aside until it is repaired.",
        code="conversation_parked",
        headers={"retry-after": "60"},
    )


class LogAccess:
    """Asks the log. One for a process; `close` it before its pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reader = EventReader(pool)
        self._probe: asyncio.Task[None] | None = None
        self._left: set[asyncio.Task[Any]] = set()

    @property
    def away(self) -> bool:
        """Whether the last look-up failed, and no probe has been answered since."""
        return self._probe is not None and not self._probe.done()

    async def ask(self, question: Question[T]) -> T:
        """The answer to `question`, say `lambda reader: reader.head(id)`. Raises LogAway, at once while it is known.

        And ApiError 503 when it needs an event that can not be read.
        """
        if self.away:
            raise LogAway
        try:
            return await self._bounded(question)
        except UnreadableEvent as error:
            raise conversation_parked() from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # A look-up may be slow for what it asks for: then Postgres answers another, and is not away.
            slow = isinstance(error, LogAway) and await self._answers(SECOND_THOUGHT_SECONDS)
            if not slow and not self.away:
                log.warning("postgres_away", error_type=type(error).__name__)
                self._probe = asyncio.create_task(self._until_back())
            raise LogAway from error

    async def close(self) -> None:
        """Lets go of what is still under way; what Postgres does not let go of, is left to the pool."""
        under_way = self._left | ({self._probe} if self._probe else set())
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=0.5)

    async def _bounded(self, question: Question[T], seconds: float = PATIENCE_SECONDS) -> T:
        """The answer within `seconds`. The look-up is a task, for one at a frozen server can not be cancelled soon."""
        task = asyncio.create_task(self._unbroken(question))
        self._left.add(task)
        task.add_done_callback(self._let_go)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise LogAway
        return task.result()

    async def _unbroken(self, question: Question[T]) -> T:
        """The answer; asked again once where a connection had broken while it lay in the pool, after all such are replaced."""
        try:
            return await question(self._reader)
        except (PoolTimeout, PoolClosed):
            raise
        except psycopg.OperationalError:
            await self._pool.check()
            return await question(self._reader)

    async def _until_back(self) -> None:
        while True:
            if await self._answers():
                break
            await asyncio.sleep(PROBE_SECONDS)
        log.info("postgres_back")

    async def _answers(self, seconds: float = PATIENCE_SECONDS) -> bool:
        try:
            await self._bounded(EventReader.last_position, seconds)
        except psycopg.Error:
            return False
        return True

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone: then nobody else looks at it


class PatientReader:
    """What contexts and replies are read with: every look-up ends soon. Raises LogAway."""

    def __init__(self, log: LogAccess) -> None:
        self._log = log

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        return await self._log.ask(
            lambda reader: reader.conversation_backwards(conversation_id, until=until, limit=limit)
        )

    async def head(self, conversation_id: str) -> Head | None:
        return await self._log.ask(lambda reader: reader.head(conversation_id))

    async def conversation_of(self, tenant: str, response_id: str) -> str | None:
        return await self._log.ask(lambda reader: reader.conversation_of(tenant, response_id))

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        return await self._log.ask(lambda reader: reader.items(conversation_id, item_ids, until=until))

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        return await self._log.ask(lambda reader: reader.settings_events(conversation_id, until=until))

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        return await self._log.ask(
            lambda reader: reader.conversation(conversation_id, limit=limit, after=after, until=until)
        )
