"""A bounded queue of append requests, and how batches are taken from it."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable

MAX_BATCH_COMMANDS = 128
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_QUEUED_COMMANDS = 4096
MAX_QUEUED_BYTES = 128 * 1024 * 1024

SECOND_BATCH_COMMANDS = 6
"""While one batch is in flight, a second one starts when this many requests are queued. When twice as many are queued, a batch takes half of them."""


class QueuedAppend(Struct, eq=False):
    """A request, the future its caller awaits, and when it was queued (monotonic seconds)."""

    request: AppendRequest
    future: "asyncio.Future[Appended]"
    queued_at: float

    def resolve(self, result: Appended | BaseException) -> None:
        """Gives the caller its result, unless it has one or has cancelled. A cancelled append may still be stored."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class AppendQueue:
    """First in, first out. Two tasks of one event loop take batches from it.

    Two batches in flight never have a conversation in common: a request for a conversation in flight waits for that batch, and so do all
    requests behind it.
    """

    def __init__(self) -> None:
        self._queued: deque[QueuedAppend] = deque()
        self._bytes = 0
        self._in_flight: dict[int, Sequence[QueuedAppend]] = {}
        self._conversations_in_flight: set[str] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._task_is_woken = False
        """A task was woken and has not run yet."""
        self._closing = False

    def put(self, request: AppendRequest) -> "asyncio.Future[Appended]":
        """Queues a request. The future is done when the command is durable or refused. Raises LogBusy."""
        if self._closing or len(self._queued) >= MAX_QUEUED_COMMANDS or self._bytes > MAX_QUEUED_BYTES:
            raise LogBusy
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._queued.append(QueuedAppend(request, future, time.monotonic()))
        self._bytes += request.size
        self._wake_idle_task()
        return future

    async def next_batch(self) -> Sequence[QueuedAppend]:
        """Waits for a batch. Empty when the queue is closed and nothing is queued. Call `finish` with each batch."""
        while not self._can_start_batch():
            if self._closing and not self._queued:
                return ()
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle  # requests that become ready in this turn of the event loop join the batch
            self._task_is_woken = False
        batch = self._take_batch()
        self._in_flight[id(batch)] = batch
        self._conversations_in_flight.update(queued.request.conversation_id for queued in batch)
        self._wake_idle_task()
        return batch

    def finish(self, batch: Sequence[QueuedAppend]) -> None:
        """Marks the batch as no longer in flight. Wakes no other task: the one that took the batch must call `next_batch`."""
        del self._in_flight[id(batch)]
        self._conversations_in_flight.difference_update(queued.request.conversation_id for queued in batch)

    def close(self) -> None:
        """Refuses new requests. `next_batch` still returns the queued ones."""
        self._closing = True
        self._wake_idle_task()

    def fail_older_than(self, queued_at: float) -> None:
        """Fails old requests. Queued ones were not appended; those in flight may have been."""
        for batch in self._in_flight.values():
            for queued in batch:
                if queued.queued_at < queued_at:
                    queued.resolve(LogUnavailable(outcome_unknown=True))
        while self._queued and self._queued[0].queued_at < queued_at:
            late_append = self._queued.popleft()
            self._bytes -= late_append.request.size
            late_append.resolve(LogUnavailable(outcome_unknown=False))
        self._wake_idle_task()

    def _can_start_batch(self) -> bool:
        """Whether enough is queued, and the conversation of the first request is not in flight.

        With no batch in flight, one request is enough: waiting for more would only delay it.
        """
        if not self._in_flight:
            return bool(self._queued)
        if len(self._queued) < SECOND_BATCH_COMMANDS:
            return False
        return self._queued[0].request.conversation_id not in self._conversations_in_flight

    def _take_batch(self) -> Sequence[QueuedAppend]:
        """Takes the first requests from the queue: all, or half if there are many, within the limits of a batch."""
        max_commands = len(self._queued)
        if max_commands >= 2 * SECOND_BATCH_COMMANDS:
            max_commands = min(max_commands // 2, MAX_BATCH_COMMANDS)
        batch: list[QueuedAppend] = []
        size = 0
        while len(batch) < max_commands:
            request = self._queued[0].request
            size += request.size
            if request.conversation_id in self._conversations_in_flight or (batch and size > MAX_BATCH_BYTES):
                break
            batch.append(self._queued.popleft())
            self._bytes -= request.size
        return batch

    def _wake_idle_task(self) -> None:
        """Wakes one task if it can start a batch, or all of them when the queue closes."""
        while self._idle and (self._closing or (not self._task_is_woken and self._can_start_batch())):
            self._task_is_woken = True
            self._idle.pop().set_result(None)
