"""Ends or takes over orphaned replies: replies that no process runs any more.

A waiting reply that may outlive its process is taken over. Any other orphaned reply is marked as interrupted, with
the output in Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import psycopg
import structlog
from redis.asyncio import Redis

from domain.commands import InterruptReply
from domain.errors import Refused
from domain.events import InputItem, ReplyRequested
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint, mint_uuid
from replies import live_events, stream_events
from replies.leases import Orphan, Owner, ReplyLeases
from replies.output import output_of_events

log = structlog.get_logger(__name__)

MAX_ORPHANS = 100

MAX_CONCURRENT_ENDS = 10
SUBJECT = "conversation-store"


class OrphanedReplies:
    """Finds, takes over and ends orphaned replies. `take_over` returns True if the reply need not be ended."""

    def __init__(
        self,
        leases: ReplyLeases,
        events_log: EventLog,
        reader: EventReader,
        redis: Redis,
        take_over: Callable[[Orphan], Awaitable[bool]],
        *,
        max_orphans: int = MAX_ORPHANS,
    ) -> None:
        self._leases = leases
        self._log = events_log
        self._reader = reader
        self._redis = redis
        self._take_over = take_over
        self._max_orphans = max_orphans
        self._last_tried: Orphan | None = None

    async def end_some(self, dead: Collection[Owner], lost: Collection[str]) -> None:
        """Ends or takes over at most `max_orphans` replies. Deletes the leases of the `dead` processes.

        Each call continues where the call before it ended, so orphans that cannot be ended do not block others.
        """
        try:
            orphans = await self._leases.orphans(dead, lost, after=self._last_tried, limit=self._max_orphans)
            self._last_tried = orphans[-1] if len(orphans) == self._max_orphans else None
            for start in range(0, len(orphans), MAX_CONCURRENT_ENDS):
                await asyncio.gather(*map(self._end, orphans[start : start + MAX_CONCURRENT_ENDS]))
            await self._leases.delete(dead)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("orphans_not_ended", error_type=type(error).__name__)

    async def _end(self, orphan: Orphan) -> None:
        try:
            if await self._take_over(orphan):
                return
        except (psycopg.Error, LogBusy, LogUnavailable) as error:
            log.warning("take_over_delayed", response_id=orphan.response_id, error_type=type(error).__name__)
            return
        except Exception as error:  # noqa: BLE001 - for example an unreadable event: the conversation must not stay locked
            log.warning("take_over_failed", response_id=orphan.response_id, error_type=type(error).__name__)
        await self._interrupt(orphan)

    async def _interrupt(self, orphan: Orphan) -> None:
        try:
            events = await live_events.events_so_far(self._redis, orphan.response_id)
            # In a thread, because there may be hundreds of thousands of events.
            output, lengths = await asyncio.to_thread(output_of_events, map(stream_events.decode, events))
        except Exception as error:  # noqa: BLE001 - whatever Redis holds, the conversation must not stay locked
            log.warning("live_events_not_read", response_id=orphan.response_id, error_type=type(error).__name__)
            output, lengths = (), ()
        try:
            await self._append(orphan, output, lengths)
        except Refused as refused:
            log.info("reply_already_ended", response_id=orphan.response_id, code=refused.code)
            await self._leases.forget(orphan)
        except (LogBusy, LogUnavailable, psycopg.OperationalError) as error:
            log.warning("interruption_delayed", response_id=orphan.response_id, error_type=type(error).__name__)
        except Exception:
            # For example, the conversation cannot be read. The other orphans must still be ended.
            log.exception("interruption_failed", response_id=orphan.response_id)
        else:
            log.warning("reply_interrupted", response_id=orphan.response_id, items=len(output))

    async def _append(self, orphan: Orphan, output: tuple[InputItem, ...], delta_lengths: tuple[int, ...]) -> None:
        input_items, author = await self._reply_request(orphan)
        command = InterruptReply(
            response_id=orphan.response_id,
            code="process_died",
            author=author,
            input=input_items,
            output=output,
            delta_lengths=delta_lengths,
        )
        request = AppendRequest(
            principal=Principal(orphan.tenant, SUBJECT, frozenset()),
            conversation_id=orphan.conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=mint("req"),
            size=command_bytes(command),
        )
        await self._log.append(request)

    async def _reply_request(self, orphan: Orphan) -> tuple[tuple[InputItem, ...], str]:
        """(input, author). No input, and SUBJECT as the author, if the log has no ReplyRequested."""
        reader = self._reader.of_tenant(orphan.tenant)
        for recorded in await reader.items(orphan.conversation_id, [orphan.response_id]):
            if isinstance(event := recorded.event, ReplyRequested):
                return event.input, recorded.subject
        return (), SUBJECT
