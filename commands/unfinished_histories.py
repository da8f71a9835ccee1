"""Deletes the conversations of long histories whose request was never recorded, for example because the process was killed.

A long history starts a new conversation, and is appended before its request. Nobody gets the id of this conversation,
and a repeated request stores the history again. A history that follows an answer of this store is kept, because a
repeated request continues it.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import psycopg
import structlog

from domain.commands import DeleteConversation
from domain.errors import Refused
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog
from infrastructure.ids import conversation_id, first_uuid_at, mint, mint_uuid
from infrastructure.stores.postgres import Pool

SWEEP_INTERVAL_SECONDS = 3600.0

RETRY_SECONDS = 60.0
"""The wait before the first sweep, and after a sweep that failed."""

MIN_AGE_SECONDS = 3600.0
"""A younger conversation may still get its request."""

FIRST_SWEEP_SECONDS = 86_400.0
"""The first sweep of a process reads conversations up to MIN_AGE_SECONDS + FIRST_SWEEP_SECONDS old."""

SUBJECT = "conversation-store"
"""The author of the recorded deletion."""

# A prefix is `answered` if it contains an answer of this store.
_UNFINISHED = """
    SELECT tenant_id, conversation_id FROM transcript_prefixes AS p
    WHERE conversation_id >= %s AND conversation_id < %s
    GROUP BY tenant_id, conversation_id
    HAVING count(response_id) = 0 AND NOT bool_or(answered) AND NOT EXISTS (
        SELECT FROM events AS e
        WHERE e.originator_id = p.conversation_id AND e.tenant_id = p.tenant_id AND e.topic = 'reply.requested')
"""

log = structlog.get_logger(__name__)


class UnfinishedHistories:
    """A sweep begins where the last complete sweep ended. `clock`: the time in seconds since 1970."""

    def __init__(self, pool: Pool, events_log: EventLog, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._log = events_log
        self._clock = clock
        self._swept_until: float | None = None

    async def sweep(self) -> None:
        """Raises psycopg.Error, TimeoutError, LogBusy and LogUnavailable."""
        until = self._clock() - MIN_AGE_SECONDS
        since = until - FIRST_SWEEP_SECONDS if self._swept_until is None else self._swept_until
        async with self._pool.connection() as connection:
            rows = await connection.execute(_UNFINISHED, (first_uuid_at(since), first_uuid_at(until)))
            found = await rows.fetchall()
        for tenant, stream in found:
            await self._delete(str(tenant), conversation_id(UUID(str(stream))))
        self._swept_until = until

    async def _delete(self, tenant: str, conversation_id: str) -> None:
        command = DeleteConversation()
        request = AppendRequest(
            principal=Principal(tenant, SUBJECT, frozenset({"admin"})),
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=mint("req"),
            size=command_bytes(command),
        )
        try:
            await self._log.append(request)
        except Refused as refused:  # for example, the conversation is deleted already
            log.info("unfinished_history_not_deleted", conversation_id=conversation_id, code=refused.code)
        else:
            log.warning("unfinished_history_deleted", conversation_id=conversation_id)

    async def keep_sweeping(self) -> None:
        delay = RETRY_SECONDS
        while True:
            await asyncio.sleep(delay)
            delay = RETRY_SECONDS
            try:
                await self.sweep()
                delay = SWEEP_INTERVAL_SECONDS
            except (psycopg.Error, TimeoutError, LogBusy, LogUnavailable) as error:
                log.warning("histories_not_swept", error_type=type(error).__name__)
            except Exception:
                log.exception("history_sweep_crashed")
