"""The event log as handlers use it.

Commands are committed in batches. Each batch takes one lock and one fsync. Two tasks take turns: while Postgres commits
the batch of one task, the other task decides the next batch.

Requests are decided on cached streams if that is possible, and otherwise under the append lock. If the answer to a
COMMIT is lost, the log looks for the rows before it appends again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from msgspec.structs import replace

from infrastructure.event_log.append_request import Appended, AppendRequest, LogUnavailable, StreamName, VersionMismatch
from infrastructure.event_log.batch_decider import BatchDecider
from infrastructure.event_log.batch_plan import BatchPlan
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.key_sweeper import KeySweeper
from infrastructure.event_log.locked_append import LockedAppend, Results
from infrastructure.event_log.queue import AppendQueue, QueuedAppend
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.snapshotter import Snapshotter
from infrastructure.event_log.stream_loader import StreamLoader
from infrastructure.event_log.streams import StreamCache
from infrastructure.event_log.write import parameters
from infrastructure.observability.metrics import Metrics
from infrastructure.stores.postgres_pipeline import OutcomeUnknown

APPEND_TIMEOUT_SECONDS = 10.0
"""The limit for a batch's first request in the queue, and for retries while Postgres is down."""

CALLER_TIMEOUT_SECONDS = 3 * APPEND_TIMEOUT_SECONDS
"""After this time the caller gets an error. This is checked once a second."""

LARGE_BATCH_BYTES = 256 * 1024
"""A batch of at least this size is decided in a thread, because encoding it would block the event loop."""

CLOSING_TIMEOUT_SECONDS = 1.0
"""For the retries of a batch while the process stops."""

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


class EventLog:
    """Appends the commands of one process. Call `close` when no request is left.

    `keep_keys`: how long an idempotency key is valid. `owner`: the id under which this process runs replies.
    """

    def __init__(
        self,
        postgres_url: str,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        *,
        keep_keys: timedelta = timedelta(days=1),
        owner: UUID | None = None,
        append_timeout_seconds: float = APPEND_TIMEOUT_SECONDS,
        recorder_type: type[ConversationRecorder] = ConversationRecorder,
        cache: StreamCache | None = None,
    ) -> None:
        self._datastore = Datastore(postgres_url)
        self._recorder = recorder_type(self._datastore)
        self._metrics = metrics
        self._clock = clock
        self._keep_keys = keep_keys
        self._owner = owner
        self._append_timeout_seconds = append_timeout_seconds
        self._queue = AppendQueue()
        self._cache = StreamCache() if cache is None else cache
        self._loader = StreamLoader(self._recorder, self._cache, metrics)
        self._locked_append = LockedAppend(
            self._recorder,
            self._cache,
            self._loader,
            new_decider=self._decider,
            results_of=self._results,
            on_interruption=self._note_failure,
        )
        self._snapshotter = Snapshotter(self._recorder)
        self._key_sweeper = KeySweeper(self._recorder, keep_keys)
        self._pipeline = self._recorder.pipeline()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._failed_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_failing(self) -> bool:
        """Whether an append was interrupted less than APPEND_TIMEOUT_SECONDS ago, and no append was answered since."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < APPEND_TIMEOUT_SECONDS

    def open(self) -> None:
        """Postgres may still be down."""
        self._datastore.pool.open(wait=False)
        self._snapshotter.start()
        self._key_sweeper.start()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(2)]
        self._fail_late_callers()

    async def close(self) -> None:
        """Commits what is queued."""
        self._closing = True
        self._queue.close()
        for task in self._tasks:
            await task
        self._pipeline.close()
        if self._timer is not None:
            self._timer.cancel()
        self._key_sweeper.stop()
        await asyncio.to_thread(self._snapshotter.close)
        await asyncio.to_thread(self._datastore.close)

    async def append(self, request: AppendRequest) -> Appended:
        """Makes the command's events durable. Cancelling does not undo the append.

        Raises Refused, VersionMismatch, KeyReused, UnreadableEvent, LogBusy (nothing was appended) or LogUnavailable.
        """
        return await self._queue.put(request)

    def _fail_late_callers(self) -> None:
        """Without this check, a caller would wait for ever if Postgres neither answered nor disconnected."""
        self._queue.fail_older_than(time.monotonic() - CALLER_TIMEOUT_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(1.0, self._fail_late_callers)

    async def _run(self) -> None:
        await self._pipeline.open()
        while batch := await self._queue.next_batch():
            started = time.perf_counter()
            try:
                await self._append(batch)
            except Exception:
                log.exception("batch_failed", commands=len(batch))
                _resolve(batch, [LogUnavailable(outcome_unknown=True) for _ in batch])
            self._queue.finish(batch)
            self._metrics.append_seconds.observe(time.perf_counter() - started)

    async def _append(self, batch: Sequence[QueuedAppend]) -> None:
        """Appends nothing if the batch was queued for too long."""
        if time.monotonic() - batch[0].queued_at > self._append_timeout_seconds:
            _resolve(batch, [LogUnavailable(outcome_unknown=False) for _ in batch])
            return
        plan = await self._decide_optimistically([queued.request for queued in batch])
        undecided = batch
        if plan is not None:
            decided, undecided = _divide(batch, plan)
            _resolve(decided, await self._send(plan))
        if undecided:
            _resolve(undecided, await self._append_under_lock([queued.request for queued in undecided]))

    async def _decide_optimistically(self, requests: Sequence[AppendRequest]) -> BatchPlan | None:
        """None if all requests need the log, or if deciding failed."""
        try:
            streams, missing = self._cache.find(requests)
            if missing:
                streams.update((await asyncio.to_thread(self._loader.load, missing)).streams)
            decider = self._decider()
            if sum(request.size for request in requests) < LARGE_BATCH_BYTES:
                return decider.decide_optimistically(requests, streams)
            return await asyncio.to_thread(decider.decide_optimistically, requests, streams)
        except Exception as error:  # noqa: BLE001 - it is tried again under the lock, and an error there is reported
            log.debug("batch_not_decided", commands=len(requests), error_type=type(error).__name__)
            return None

    async def _send(self, plan: BatchPlan) -> Results:
        """If Postgres refuses, writes nothing or does not answer, appends under the lock."""
        requests = [outcome.request for outcome in plan.outcomes]
        try:
            positions = await self._pipeline.call(parameters(plan.write), self._append_timeout_seconds)
        except psycopg.Error as error:
            in_doubt = [plan] if isinstance(error, OutcomeUnknown) else []
            log.debug("append_refused", commands=len(requests), error_type=type(error).__name__)
            return await self._append_under_lock(requests, in_doubt)
        except Exception:
            log.exception("append_in_doubt", commands=len(requests))  # the rows may have been sent
            return [LogUnavailable(outcome_unknown=True) for _ in requests]
        return await self._append_under_lock(requests) if positions is None else self._results(plan, positions)

    async def _append_under_lock(
        self, requests: Sequence[AppendRequest], in_doubt: Sequence[BatchPlan] = ()
    ) -> Results:
        timeout_seconds = CLOSING_TIMEOUT_SECONDS if self._closing else self._append_timeout_seconds
        return await self._locked_append.append(requests, timeout_seconds, in_doubt)

    def _note_failure(self) -> None:
        self._failed_at = time.monotonic()

    def _decider(self) -> BatchDecider:
        now = self._clock()
        return BatchDecider(
            self._recorder, self._cache, now=now, keys_valid_since=now - self._keep_keys, owner=self._owner
        )

    def _results(self, plan: BatchPlan, positions: Sequence[int]) -> Results:
        """Never raises, because the batch must not be decided again."""
        self._failed_at = None
        try:
            results = plan.apply(positions, self._cache)
            self._count(plan)
            for name, stream in plan.streams.items():
                if stream.needs_snapshot:
                    self._snapshot(name)
        except Exception:
            log.exception("append_results_failed", commands=len(plan.outcomes))
            return [LogUnavailable(outcome_unknown=True) for _ in plan.outcomes]
        return results

    def _snapshot(self, name: StreamName) -> None:
        stream = self._cache.get(name)
        if stream is not None and self._snapshotter.offer(name, stream):
            self._cache.put(name, replace(stream, snapshotted=stream.state.version))

    def _count(self, plan: BatchPlan) -> None:
        if plan.write.rows:
            self._metrics.observe_append([row.topic for row in plan.write.rows])
        if plan.races:
            self._metrics.append_conflicts.labels(reason="race").inc(plan.races)
        for outcome in plan.outcomes:
            if isinstance(outcome.error, VersionMismatch):
                self._metrics.append_conflicts.labels(reason="if_match").inc()


def _divide(batch: Sequence[QueuedAppend], plan: BatchPlan) -> tuple[Sequence[QueuedAppend], Sequence[QueuedAppend]]:
    """The requests in the plan, in the plan's order, and the other requests."""
    if len(plan.outcomes) == len(batch):
        return batch, ()
    in_plan = {id(outcome.request) for outcome in plan.outcomes}
    return (
        [queued for queued in batch if id(queued.request) in in_plan],
        [queued for queued in batch if id(queued.request) not in in_plan],
    )


def _resolve(batch: Sequence[QueuedAppend], results: Results) -> None:
    for queued, result in zip(batch, results, strict=True):
        queued.resolve(result)
