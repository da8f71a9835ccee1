"""Tells waiters when their conversations change. One task looks up all these conversations again and again."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg
import structlog

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.version_lookup import Head

POLL_SECONDS: Final = 0.25
BATCH_CONVERSATIONS: Final = 128
"""Between two batches, other reads can send their look-ups."""

LookUp = Callable[[Sequence[str]], Awaitable[list[Head | None]]]
Change = asyncio.Future[Head | None]
"""The conversation's new head; None: the log no longer has the conversation. Cancelled when the process shuts down."""

log = structlog.get_logger(__name__)


class ConversationWatch:
    """Each app (commands, queries) has one. `look_up` raises psycopg.Error or LogBusy."""

    def __init__(self, look_up: LookUp, shutdown: threading.Event) -> None:
        self._look_up = look_up
        self._shutdown = shutdown
        self._waiting: dict[str, dict[Change, Head | None]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def change(self, conversation_id: str, seen: Head | None) -> Iterator[Change]:
        """Resolved once the head differs from `seen`; if `seen` is None, at the next look-up."""
        change: Change = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(conversation_id, {})[change] = seen
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        try:
            yield change
        finally:
            changes = self._waiting[conversation_id]
            del changes[change]
            if not changes:
                del self._waiting[conversation_id]

    async def head(self, conversation_id: str) -> Head | None:
        """Raises psycopg.Error or LogBusy."""
        [head] = await self._look_up([conversation_id])
        return head

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        pause = POLL_SECONDS
        try:
            while self._waiting:
                raise_if_cancelled()
                await asyncio.sleep(pause)
                if self._shutdown.is_set():
                    for changes in self._waiting.values():
                        for change in changes:
                            change.cancel()
                started = time.monotonic()
                await self._look_up_all()
                pause = max(POLL_SECONDS, 4 * (time.monotonic() - started))
        finally:
            self._task = None

    async def _look_up_all(self) -> None:
        conversation_ids = list(self._waiting)
        for start in range(0, len(conversation_ids), BATCH_CONVERSATIONS):
            batch = [id_ for id_ in conversation_ids[start : start + BATCH_CONVERSATIONS] if id_ in self._waiting]
            if not batch:
                continue
            # A waiter that is added during the look-up may have seen a newer head already.
            waiting = [tuple(self._waiting[conversation_id].items()) for conversation_id in batch]
            try:
                newest = await self._look_up(batch)
            except (psycopg.Error, LogBusy) as error:
                log.debug("conversations_not_looked_up", error_type=type(error).__name__)
                return
            except Exception:  # the task must not end, or the waiters would wait for ever
                log.exception("conversation_watch_failed")
                return
            for changes, head in zip(waiting, newest, strict=True):
                for change, seen in changes:
                    if (seen is None or head != seen) and not change.done():
                        change.set_result(head)
