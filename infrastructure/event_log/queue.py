"""The commands that wait to be appended, bounded, and the batches that are made of them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable

BATCH_COMMANDS = 128
BATCH_BYTES = 8 * 1024 * 1024
WAITING_COMMANDS = 4096
WAITING_BYTES = 128 * 1024 * 1024

WORTH_COMMANDS = 6
"""So many are worth a batch of their own while another is under way; twice as many are shared between two."""


class QueuedAppend(Struct, eq=False):
    """A command, the caller that awaits it, and since when (monotonic)."""

    work: AppendRequest
    future: "asyncio.Future[Appended]"
    since: float

    def tell(self, result: Appended | BaseException) -> None:
        """Ends the wait; where the caller hung up, what was appended stays."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Queue:
    """First come, first served, by two tasks of one event loop that take batches by turns.

    Two batches under way are never for the same conversation: where the first that waits is for one of the other's, that other ends first.
    """

    def __init__(self) -> None:
        self._waiting: deque[QueuedAppend] = deque()
        self._bytes = 0
        self._under_way: dict[int, Sequence[QueuedAppend]] = {}
        self._conversations: set[str] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._woken = False
        self._closing = False

    def put(self, work: AppendRequest) -> "asyncio.Future[Appended]":
        """A future that is done when the command is durable or refused. Raises LogBusy."""
        if self._closing or len(self._waiting) >= WAITING_COMMANDS or self._bytes > WAITING_BYTES:
            raise LogBusy
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append(QueuedAppend(work, future, time.monotonic()))
        self._bytes += work.size
        self._wake()
        return future

    async def take(self) -> Sequence[QueuedAppend]:
        """The next batch, as soon as there is one; empty when the queue is closed and nothing waits. `done` ends it."""
        while not self._is_time():
            if self._closing and not self._waiting:
                return ()
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle  # what else is ready in this turn of the event loop gets into the queue before this goes on
            self._woken = False
        batch = self._next()
        self._under_way[id(batch)] = batch
        self._conversations.update(waiting.work.conversation_id for waiting in batch)
        self._wake()
        return batch

    def done(self, batch: Sequence[QueuedAppend], results: Sequence[Appended | BaseException]) -> None:
        """Tells each caller of a batch its result; who took it takes the next one."""
        del self._under_way[id(batch)]
        self._conversations.difference_update(waiting.work.conversation_id for waiting in batch)
        for waiting, result in zip(batch, results, strict=True):
            waiting.tell(result)

    def close(self) -> None:
        """Takes no more; what waits is still given out."""
        self._closing = True
        self._wake()

    def let_go(self, since: float) -> None:
        """Tells those who came before `since` (monotonic) that they waited too long; whether for nothing is known of those in the queue only."""
        for batch in self._under_way.values():
            for waiting in batch:
                if waiting.since < since:
                    waiting.tell(LogUnavailable(outcome_unknown=True))
        while self._waiting and self._waiting[0].since < since:
            late = self._waiting.popleft()
            self._bytes -= late.work.size
            late.tell(LogUnavailable(outcome_unknown=False))
        self._wake()

    def _is_time(self) -> bool:
        """Whether a batch should be made of what waits: a lone command waits for no company, unless Postgres is busy anyway."""
        if not self._under_way:
            return bool(self._waiting)
        return len(self._waiting) >= WORTH_COMMANDS and self._waiting[0].work.conversation_id not in self._conversations

    def _next(self) -> Sequence[QueuedAppend]:
        """What waits, or half of it, bounded in commands and bytes."""
        most = len(self._waiting)
        if most >= 2 * WORTH_COMMANDS:
            most = min(most // 2, BATCH_COMMANDS)
        batch: list[QueuedAppend] = []
        size = 0
        while len(batch) < most:
            work = self._waiting[0].work
            size += work.size
            if work.conversation_id in self._conversations or (batch and size > BATCH_BYTES):
                break
            batch.append(self._waiting.popleft())
            self._bytes -= work.size
        return batch

    def _wake(self) -> None:
        """Wakes a task that is idle, when it is time; the last thing they all wake for is that it is over."""
        while self._idle and (self._closing or (not self._woken and self._is_time())):
            self._woken = True
            self._idle.pop().set_result(None)
