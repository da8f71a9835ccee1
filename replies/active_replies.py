"""The replies that run in this process: started, cancelled, stopped with the process. One task renews the process's lease.

`leases.py` reads and writes the lease in Postgres. `orphaned_replies.py` ends the replies of processes that died.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import psycopg
import structlog

from replies.leases import ALIVE_SECONDS, RENEW_SECONDS, OwnLease, ReplyLeases
from replies.orphaned_replies import LATE_SECONDS, OrphanedReplies
from replies.running_reply import RunningReply

log = structlog.get_logger(__name__)

CLEANUP_SECONDS = 3600.0


class ActiveReplies:
    """All running replies of this process. Open it when the app starts; close it before the log is closed."""

    def __init__(self, leases: ReplyLeases, orphaned: OrphanedReplies) -> None:
        self._leases = leases
        self._orphaned = orphaned
        self._replies: dict[str, RunningReply] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._ending_orphans: asyncio.Task[None] | None = None
        self._alive_since = 0.0
        self._renewed_at = 0.0
        self._cleaned_up_at = 0.0

    def open(self) -> None:
        self._renewing = asyncio.create_task(self._keep_renewing())

    async def close(self) -> None:
        """Stops the running replies and waits until the end of each is in the log, at most ALIVE_SECONDS."""
        for reply in list(self._replies.values()):
            reply.stop("server_stopped")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=ALIVE_SECONDS)
        for task in (self._renewing, self._ending_orphans):
            if task is not None:
                task.cancel()
        try:
            await self._leases.release()
        except psycopg.Error as error:
            log.warning("lease_not_released", error_type=type(error).__name__)

    def start(self, reply: RunningReply) -> None:
        """Runs a reply until its end is in the log."""
        self._replies[reply.response_id] = reply
        task = reply.start()
        self._tasks.add(task)

        def forget(ended_task: asyncio.Task[None]) -> None:
            self._replies.pop(reply.response_id, None)
            self._tasks.discard(ended_task)
            if not ended_task.cancelled() and ended_task.exception() is not None:
                log.error("reply_end_not_recorded", response_id=reply.response_id, exc_info=ended_task.exception())

        task.add_done_callback(forget)

    async def cancel(self, tenant: str, response_id: str) -> None:
        """Cancels a reply in whichever process it runs: at once here, within about RENEW_SECONDS elsewhere. Raises psycopg.Error."""
        if (reply := self._replies.get(response_id)) is not None:
            reply.stop("cancelled")
        else:
            await self._leases.request_cancel(tenant, response_id)

    async def _keep_renewing(self) -> None:
        while True:
            try:
                await self._renew()
            except (psycopg.Error, TimeoutError) as error:
                # Other processes may not have been able to renew either. Give them time before any of them counts as dead.
                self._alive_since = 0.0
                log.warning("lease_not_renewed", error_type=type(error).__name__)
            except Exception:
                log.exception("lease_renewal_crashed")
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        """Renews the lease, cancels what others asked to cancel, and has orphaned replies ended."""
        requested_at = time.monotonic()
        own_leases = await self._leases.renew()
        now = time.monotonic()
        if not self._alive_since or now - self._renewed_at > LATE_SECONDS:
            self._alive_since = now
        self._renewed_at = now
        for response_id, reply in list(self._replies.items()):
            lease = own_leases.get(response_id)
            if lease is not None and lease.cancelling:
                reply.stop("cancelled")
            elif lease is None and reply.stored and reply.seconds > now - requested_at + ALIVE_SECONDS:
                reply.stop("cancelled")  # its conversation was deleted, or another process ended it
        if now - self._alive_since < ALIVE_SECONDS:
            return
        if self._ending_orphans is None or self._ending_orphans.done():
            # In a task of its own: the lease must be renewed in time, however slow Redis and the log are.
            self._ending_orphans = asyncio.create_task(self._orphaned.end_all(self._lost(own_leases), now))
        if now - self._cleaned_up_at > CLEANUP_SECONDS:
            self._cleaned_up_at = now
            await self._leases.delete_dead_processes()

    def _lost(self, own_leases: Mapping[str, OwnLease]) -> list[str]:
        """Replies that belong to this process but do not run in it: it never learned that their requests were committed."""
        return [
            response_id
            for response_id, lease in own_leases.items()
            if lease.past_grace and response_id not in self._replies
        ]
