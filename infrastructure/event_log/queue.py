"""A bounded queue of append requests. It decides what is in the next batch, and when that batch starts."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence

from msgspec import Struct

from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable, StreamName

MAX_BATCH_COMMANDS = 128
MAX_BATCH_BYTES = 1024 * 1024
"""A larger request is a batch of its own. A batch of this size takes about 20 ms."""

MAX_QUEUED_COMMANDS = 8192
MAX_QUEUED_BYTES = 128 * 1024 * 1024
MAX_SHARE = 0.5
"""One tenant may fill this part of the queue."""

SECOND_BATCH_COMMANDS = 6
"""While one batch is in flight, a second one starts when this many requests are queued.

If twice as many are queued, a batch takes at most half of the requests.
"""


class QueuedAppend(Struct, eq=False):
    """`queued_at`: monotonic seconds."""

    request: AppendRequest
    future: "asyncio.Future[Appended]"
    queued_at: float

    def resolve(self, result: Appended | BaseException) -> None:
        """Does nothing if the caller has a result, or has cancelled. A cancelled append may still be stored."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class _TenantQueue:
    def __init__(self) -> None:
        self.queued: deque[QueuedAppend] = deque()
        self.bytes = 0

    def put(self, queued: QueuedAppend) -> None:
        self.queued.append(queued)
        self.bytes += queued.request.size

    def take(self) -> QueuedAppend:
        queued = self.queued.popleft()
        self.bytes -= queued.request.size
        return queued


class AppendQueue:
    """One tenant's requests leave in order. Tenants take turns.

    Two batches in flight never share a conversation. A request for a conversation in flight waits, and so do its
    tenant's requests behind it.
    """

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, _TenantQueue] = OrderedDict()
        """The first tenant has the next turn."""
        self._count = 0
        self._bytes = 0
        self._in_flight: dict[int, Sequence[QueuedAppend]] = {}
        self._streams_in_flight: set[StreamName] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._task_is_woken = False
        self._closing = False

    def put(self, request: AppendRequest) -> "asyncio.Future[Appended]":
        """The future is done when the command is durable or refused. Raises LogBusy if the queue is closed or full, or the tenant's share is full."""
        if self._closing:
            raise LogBusy("This process is stopping.")
        if self._is_full(1.0, self._count, self._bytes):
            raise LogBusy
        tenant = self._tenants.get(request.principal.tenant)
        if tenant is None:
            tenant = self._tenants[request.principal.tenant] = _TenantQueue()
        elif self._is_full(MAX_SHARE, len(tenant.queued), tenant.bytes):
            raise LogBusy
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        tenant.put(QueuedAppend(request, future, time.monotonic()))
        self._count += 1
        self._bytes += request.size
        self._wake_idle_task()
        return future

    async def next_batch(self) -> Sequence[QueuedAppend]:
        """Call `finish` with the batch later. Empty when the queue is closed and nothing is queued."""
        while not self._can_start_batch():
            if self._closing and not self._tenants:
                return ()
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle  # requests that become ready in this turn of the event loop join the batch
            self._task_is_woken = False
        batch = self._take_batch()
        self._in_flight[id(batch)] = batch
        self._streams_in_flight.update(queued.request.stream_name for queued in batch)
        self._wake_idle_task()
        return batch

    def finish(self, batch: Sequence[QueuedAppend]) -> None:
        """Wakes no task. So the task that took the batch must call `next_batch` afterwards."""
        del self._in_flight[id(batch)]
        self._streams_in_flight.difference_update(queued.request.stream_name for queued in batch)

    def close(self) -> None:
        """`next_batch` still returns the queued requests."""
        self._closing = True
        self._wake_idle_task()

    def fail_older_than(self, queued_at: float) -> None:
        """Fails old requests. Queued requests were not appended. Requests in flight may have been."""
        for batch in self._in_flight.values():
            for queued in batch:
                if queued.queued_at < queued_at:
                    queued.resolve(LogUnavailable(outcome_unknown=True))
        for name, tenant in [*self._tenants.items()]:
            while tenant.queued and tenant.queued[0].queued_at < queued_at:
                self._take(name).resolve(LogUnavailable(outcome_unknown=False))
        self._wake_idle_task()

    @staticmethod
    def _is_full(share: float, commands: int, size: int) -> bool:
        return commands >= share * MAX_QUEUED_COMMANDS or size > share * MAX_QUEUED_BYTES

    def _can_start_batch(self) -> bool:
        """With no batch in flight, one queued request is enough, because waiting for more would only delay it.

        With one in flight, SECOND_BATCH_COMMANDS must be queued, and some tenant's first request must be for a
        conversation that is not in flight.
        """
        if not self._in_flight:
            return bool(self._tenants)
        return self._count >= SECOND_BATCH_COMMANDS and any(map(self._is_ready, self._tenants.values()))

    def _is_ready(self, tenant: _TenantQueue) -> bool:
        return tenant.queued[0].request.stream_name not in self._streams_in_flight

    def _take_batch(self) -> Sequence[QueuedAppend]:
        max_commands = self._count
        if max_commands >= 2 * SECOND_BATCH_COMMANDS:
            max_commands = min(max_commands // 2, MAX_BATCH_COMMANDS)
        batch: list[QueuedAppend] = []
        size = 0
        waiting: set[str] = set()
        """Tenants whose first request cannot be in this batch."""
        while len(batch) < max_commands and len(waiting) < len(self._tenants):
            name, tenant = next(iter(self._tenants.items()))
            self._tenants.move_to_end(name)
            if name in waiting:
                continue
            size_with_next = size + tenant.queued[0].request.size
            if not self._is_ready(tenant) or (batch and size_with_next > MAX_BATCH_BYTES):
                waiting.add(name)
                continue
            batch.append(self._take(name))
            size = size_with_next
        return batch

    def _take(self, name: str) -> QueuedAppend:
        tenant = self._tenants[name]
        queued = tenant.take()
        if not tenant.queued:
            del self._tenants[name]
        self._count -= 1
        self._bytes -= queued.request.size
        return queued

    def _wake_idle_task(self) -> None:
        """Wakes one task if it can start a batch, or all when the queue closes."""
        while self._idle and (self._closing or (not self._task_is_woken and self._can_start_batch())):
            self._task_is_woken = True
            self._idle.pop().set_result(None)
