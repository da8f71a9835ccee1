"""Starts, cancels and stops the replies that run or wait in this process, and renews the process's lease."""

import asyncio
import time
from typing import Any
from weakref import WeakSet

import psycopg
import structlog

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.conversation_watch import BATCH_CONVERSATIONS, LookUp
from infrastructure.stores.heartbeats import HeartbeatWatch
from replies.leases import ALIVE_SECONDS, RENEW_SECONDS, ReplyLeases
from replies.orphaned_replies import OrphanedReplies
from replies.running_reply import RunningReply

log = structlog.get_logger(__name__)

HEAD_CHECK_SECONDS = 1.0

GRACE_SECONDS = 45.0
"""How long Postgres may list a reply that this process does not run. Then the reply counts as lost."""


class ActiveReplies:
    """The replies of this process. Open it when the app starts, and close it before the log is closed."""

    def __init__(
        self, leases: ReplyLeases, orphaned: OrphanedReplies, look_up: LookUp, *, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._leases = leases
        self._orphaned = orphaned
        self._look_up = look_up
        self._replies: dict[str, RunningReply] = {}
        self._replies_to_check: WeakSet[RunningReply] = WeakSet()
        """Includes ended replies that are still being sent."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._ending_orphans: asyncio.Task[None] | None = None
        self._checking_heads: asyncio.Task[None] | None = None
        self._renewed_at: float | None = None
        self._closing = False
        self._not_running = HeartbeatWatch[str](grace_seconds, RENEW_SECONDS)

    @property
    def is_lease_renewed(self) -> bool:
        return self._renewed_at is not None and time.monotonic() - self._renewed_at < ALIVE_SECONDS

    def open(self) -> None:
        self._renewing = asyncio.create_task(self._keep_renewing())
        self._checking_heads = asyncio.create_task(self._keep_checking_heads())

    async def close(self) -> None:
        """Waits at most ALIVE_SECONDS for the ends of the replies."""
        self._closing = True
        for reply in list(self._replies.values()):
            reply.stop("server_stopped")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=ALIVE_SECONDS)
        for task in (self._renewing, self._ending_orphans, self._checking_heads):
            if task is not None:
                task.cancel()
        try:
            await self._leases.release()
        except psycopg.Error as error:
            log.warning("lease_not_released", error_type=type(error).__name__)

    def start(self, reply: RunningReply) -> "asyncio.Task[None]":
        self._replies[reply.response_id] = reply
        self._replies_to_check.add(reply)
        task = reply.start()
        self._tasks.add(task)

        def forget(ended_task: asyncio.Task[None]) -> None:
            self._replies.pop(reply.response_id, None)
            self._tasks.discard(ended_task)
            if not ended_task.cancelled() and ended_task.exception() is not None:
                log.error("reply_end_not_recorded", response_id=reply.response_id, exc_info=ended_task.exception())

        task.add_done_callback(forget)
        if self._closing:
            reply.stop("server_stopped")
        return task

    async def cancel(self, tenant: str, response_id: str) -> None:
        """Cancels a reply. If it runs in another process, that process cancels it at its next renewal.

        Raises psycopg.Error.
        """
        if (reply := self._replies.get(response_id)) is not None:
            reply.stop("cancelled")
        else:
            await self._leases.request_cancel(tenant, response_id)

    def stop_deleted(self, response_id: str) -> None:
        """Stops a deleted reply if it runs in this process. Other processes find out by themselves."""
        if (reply := self._replies.get(response_id)) is not None:
            reply.stop("cancelled")

    async def _keep_checking_heads(self) -> None:
        while True:
            raise_if_cancelled()
            await asyncio.sleep(HEAD_CHECK_SECONDS)
            replies = [reply for reply in self._replies_to_check if reply.conversation_id and not reply.is_cut_off]
            try:
                for start in range(0, len(replies), BATCH_CONVERSATIONS):
                    batch = replies[start : start + BATCH_CONVERSATIONS]
                    newest = await self._look_up([reply.conversation_id or "" for reply in batch])
                    for reply, head in zip(batch, newest, strict=True):
                        reply.update_head(head)
            except (psycopg.Error, LogBusy) as error:
                log.debug("conversations_not_looked_up", error_type=type(error).__name__)
            except Exception:
                log.exception("conversation_look_up_crashed")

    async def _keep_renewing(self) -> None:
        while True:
            try:
                await self._renew()
            except (psycopg.Error, TimeoutError) as error:
                self._not_running.start_over()
                log.warning("lease_not_renewed", error_type=type(error).__name__)
            except Exception:
                log.exception("lease_renewal_crashed")
            raise_if_cancelled()
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        requested_at = time.monotonic()
        renewed = await self._leases.renew()
        self._renewed_at = time.monotonic()
        for response_id, reply in list(self._replies.items()):
            is_missing = reply.stored and response_id not in renewed.own
            if renewed.own.get(response_id):
                reply.stop("cancelled")
            elif is_missing and reply.seconds > self._renewed_at - requested_at + ALIVE_SECONDS:
                reply.stop_lost()
        lost = self._not_running.unchanged(dict.fromkeys(renewed.own.keys() - self._replies.keys()))
        if (renewed.dead or lost) and (self._ending_orphans is None or self._ending_orphans.done()):
            # A task of its own, because the lease must be renewed in time, even when Redis or the log is slow.
            self._ending_orphans = asyncio.create_task(self._orphaned.end_some(renewed.dead, lost))
