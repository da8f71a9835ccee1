"""The replies that run in this process, and those that run nowhere any more: said to be alive, cancelled, found, ended.

One task a process. `replies/leases.py` says what Postgres knows of them.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import psycopg
import structlog
from redis.asyncio import Redis

from domain.commands import InterruptReply
from domain.errors import Refused
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint, mint_uuid
from replies import live_events, stream_events
from replies.leases import ALIVE_SECONDS, RENEW_SECONDS, Orphan, OwnLease, ReplyLeases
from replies.output import told
from replies.running_reply import Reply

log = structlog.get_logger(__name__)

FORGET_SECONDS = 3600.0
LATE_SECONDS = ALIVE_SECONDS / 2
"""Between two renewals: what kept this process from saying in time that it is alive may have kept the others from it as well."""

ENDED_AT_ONCE = 10
SUBJECT = "conversation-store"
"""Who is on record as having ended a reply whose process died."""


class RunningReplies:
    """All of them. Open it when the app starts; close it before the log is closed."""

    def __init__(self, leases: ReplyLeases, events_log: EventLog, redis: Redis) -> None:
        self._leases = leases
        self._log = events_log
        self._redis = redis
        self._running: dict[str, Reply] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._alive_since = 0.0
        self._renewed_at = 0.0
        self._forgot_at = 0.0

    def open(self) -> None:
        self._watch = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops the replies that still run, and waits until the end of each is on record, but not for ever."""
        for reply in list(self._running.values()):
            reply.stop("server_stopped")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=ALIVE_SECONDS)
        for task in (self._watch, self._ending):
            if task is not None:
                task.cancel()
        try:
            await self._leases.give_up()
        except psycopg.Error as error:
            log.warning("lease_not_given_up", error_type=type(error).__name__)

    def begin(self, reply: Reply) -> None:
        """Runs a reply to its end on record."""
        self._running[reply.response_id] = reply
        task = reply.start()
        self._tasks.add(task)

        def over(ended: asyncio.Task[None]) -> None:
            self._running.pop(reply.response_id, None)
            self._tasks.discard(ended)
            if not ended.cancelled() and ended.exception() is not None:
                log.error("reply_end_not_recorded", response_id=reply.response_id, exc_info=ended.exception())

        task.add_done_callback(over)

    async def cancel(self, tenant: str, response_id: str) -> None:
        """Stops a reply wherever it runs: at once here, within about RENEW_SECONDS elsewhere. Raises psycopg.Error."""
        if (reply := self._running.get(response_id)) is not None:
            reply.stop("cancelled")
        else:
            await self._leases.cancel(tenant, response_id)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except (psycopg.Error, TimeoutError) as error:
                # Whoever could not say that it is alive has no word on others, until all have had time to say so again.
                self._alive_since = 0.0
                log.warning("lease_not_renewed", error_type=type(error).__name__)
            except Exception:
                log.exception("lease_look_failed")
            await asyncio.sleep(RENEW_SECONDS)

    async def _look(self) -> None:
        asked = time.monotonic()
        mine = await self._leases.renew()
        now = time.monotonic()
        if not self._alive_since or now - self._renewed_at > LATE_SECONDS:
            self._alive_since = now
        self._renewed_at = now
        for response_id, reply in list(self._running.items()):
            known = mine.get(response_id)
            if known is not None and known.cancelling:
                reply.stop("cancelled")
            elif known is None and reply.on_record and reply.seconds > now - asked + ALIVE_SECONDS:
                reply.stop("cancelled")  # its conversation was deleted, or another process ended it
        if now - self._alive_since < ALIVE_SECONDS:
            return
        if self._ending is None or self._ending.done():
            # Beside this, which has to say in time that the process is alive, whatever Redis and the log do.
            self._ending = asyncio.create_task(self._end_orphans(self._lost(mine), now))
        if now - self._forgot_at > FORGET_SECONDS:
            self._forgot_at = now
            await self._leases.forget_the_dead()

    def _lost(self, mine: Mapping[str, OwnLease]) -> list[str]:
        """Replies that are this process's, and that it knows nothing of: it never heard that their requests were on record."""
        return [response_id for response_id, known in mine.items() if known.old and response_id not in self._running]

    async def _end_orphans(self, lost: list[str], now: float) -> None:
        try:
            orphans = await self._leases.orphans(lost)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("orphans_not_found", error_type=type(error).__name__)
            return
        if time.monotonic() - now > LATE_SECONDS:
            return  # they were looked for after all had been kept waiting
        for first in range(0, len(orphans), ENDED_AT_ONCE):
            await asyncio.gather(*map(self._interrupt, orphans[first : first + ENDED_AT_ONCE]))

    async def _interrupt(self, orphan: Orphan) -> None:
        """Puts on record that the reply was cut off, with what the live tail has of it."""
        try:
            sent = await live_events.events_so_far(self._redis, orphan.response_id)
            output, lengths = told(map(stream_events.read, sent))
        except Exception as error:  # noqa: BLE001 - whatever Redis has: the conversation is not to stay locked for it
            log.warning("live_events_not_read", response_id=orphan.response_id, error_type=type(error).__name__)
            sent, output, lengths = [], (), ()
        command = InterruptReply(
            response_id=orphan.response_id, code="process_died", output=output, delta_lengths=lengths
        )
        work = AppendRequest(
            principal=Principal(orphan.tenant, SUBJECT),
            conversation_id=orphan.conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=mint("req"),
            size=sum(map(len, sent)),
        )
        try:
            await self._log.append(work)
        except Refused as refused:
            log.info("reply_had_ended", response_id=orphan.response_id, code=refused.code)
        except (LogBusy, LogUnavailable) as error:
            log.warning("interruption_waits", response_id=orphan.response_id, error_type=type(error).__name__)
        except Exception:
            # A conversation that can not be read, say: it must not keep those after it locked.
            log.exception("interruption_failed", response_id=orphan.response_id)
        else:
            log.warning("reply_interrupted", response_id=orphan.response_id, items=len(output))
