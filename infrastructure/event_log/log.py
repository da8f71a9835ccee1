"""The event log as handlers use it: `append` makes a command's events durable, or raises.

It uses group commit: the queued commands of this process are committed in batches, with one lock and one fsync for each batch.

Two tasks take turns. While Postgres commits the batch of one, the other decides the next batch and sends it over the same connection.

A batch is first decided on cached streams and sent in one round trip. If a stream has moved meanwhile, Postgres does nothing, and the
batch is decided again under the append lock, on what the log says. If the answer to a COMMIT is lost, the batch's rows are looked up
under the lock before the batch is decided again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from eventsourcing.persistence import InterfaceError, InternalError, OperationalError
from msgspec.structs import replace

from domain.commands import StartConversation
from infrastructure.event_log.append_request import Appended, AppendRequest, LogUnavailable, VersionMismatch
from infrastructure.event_log.batch_decider import BatchDecider
from infrastructure.event_log.batch_plan import BatchPlan
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.key_sweeper import KeySweeper
from infrastructure.event_log.queue import AppendQueue, QueuedAppend
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.snapshotter import Snapshotter
from infrastructure.event_log.streams import StreamCache, load_streams
from infrastructure.event_log.write import parameters
from infrastructure.observability.metrics import Metrics
from infrastructure.stores.postgres_pipeline import NotSent, OutcomeUnknown

APPEND_TIMEOUT_SECONDS = 10.0
"""How long a batch may wait in the queue, and how long it is then retried while Postgres is down."""

CALLER_TIMEOUT_SECONDS = 3 * APPEND_TIMEOUT_SECONDS
"""How long a caller waits at most, queueing included."""

LARGE_BATCH_BYTES = 256 * 1024
"""A batch of this size or larger is decided in a thread: encoding and compressing it would block the event loop."""

_CONNECTION_ERRORS = (
    *(OperationalError, InterfaceError, InternalError),
    *(psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError),
)

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The current time, with its time zone."""
    return datetime.now(UTC)


class EventLog:
    """Appends for one process, on its event loop. Call `open` once at the start, and `close` when no request is left.

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
    ) -> None:
        self._datastore = Datastore(postgres_url)
        self._recorder = recorder_type(self._datastore)
        self._metrics = metrics
        self._clock = clock
        self._keep_keys = keep_keys
        self._owner = owner
        self._append_timeout_seconds = append_timeout_seconds
        self._queue = AppendQueue()
        self._cache = StreamCache()
        self._snapshotter = Snapshotter(self._recorder)
        self._key_sweeper = KeySweeper(self._recorder, keep_keys)
        self._pipeline = self._recorder.pipeline()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._failed_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_failing(self) -> bool:
        """Whether Postgres refused or did not answer an append within the last APPEND_TIMEOUT_SECONDS, and none has succeeded since."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < APPEND_TIMEOUT_SECONDS

    def open(self) -> None:
        """Starts the tasks on the running event loop. Postgres may still be down."""
        self._datastore.pool.open(wait=False)
        self._snapshotter.start()
        self._key_sweeper.start()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(2)]
        self._fail_late_callers()

    async def close(self) -> None:
        """Commits what is queued, then disconnects."""
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
        """Decides the command on its conversation's current state, and makes its events durable.

        Cancelling it does not undo the append. Raises Refused (by the rules), VersionMismatch (`if_match`), KeyReused, LogBusy (nothing
        was appended) or LogUnavailable (if its `outcome_unknown` is set, events may have been appended).
        """
        return await self._queue.put(request)

    def _fail_late_callers(self) -> None:
        """Runs once a second, so that no caller waits for ever, even if Postgres neither answers nor disconnects."""
        self._queue.fail_older_than(time.monotonic() - CALLER_TIMEOUT_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(1.0, self._fail_late_callers)

    async def _run(self) -> None:
        await self._pipeline.open()
        while batch := await self._queue.next_batch():
            started = time.perf_counter()
            results = await self._append_unless_late(batch)
            self._queue.finish(batch, results)
            self._metrics.append_seconds.observe(time.perf_counter() - started)

    async def _append_unless_late(self, batch: Sequence[QueuedAppend]) -> Sequence[Appended | BaseException]:
        """Appends the batch, unless it was queued for too long. Returns a result per request. Never raises."""
        if time.monotonic() - batch[0].queued_at > self._append_timeout_seconds:
            return [LogUnavailable(outcome_unknown=False) for _ in batch]
        try:
            return await self._append_or_split([queued.request for queued in batch])
        except Exception:
            log.exception("batch_failed", commands=len(batch))
            return [LogUnavailable(outcome_unknown=True) for _ in batch]

    async def _append_or_split(self, batch: list[AppendRequest]) -> Sequence[Appended | BaseException]:
        try:
            return await self._append_with_retries(batch)
        except Exception as error:
            # One command may have made the whole batch fail. Appended one by one, only that one fails.
            if len(batch) > 1:
                return [result for request in batch for result in await self._append_or_split([request])]
            log.exception("append_failed", conversation_id=batch[0].conversation_id)
            return [error]

    async def _append_with_retries(self, batch: list[AppendRequest]) -> Sequence[Appended | BaseException]:
        """Appends the batch, through lost connections, until its outcome is known or the time is up.

        `in_doubt`: the plans that were sent and not answered. One of them may be in the log, or may still arrive there.
        """
        give_up_at = time.monotonic() + (self._append_timeout_seconds if not self._closing else 1.0)
        in_doubt: list[BatchPlan] = []
        pause = 0.0
        while True:
            try:
                results = await self._append_once(batch, in_doubt)
            except _CONNECTION_ERRORS as error:
                self._failed_at = time.monotonic()
                log.warning("append_interrupted", commands=len(batch), error_type=type(error).__name__)
                if time.monotonic() + pause > give_up_at:
                    return [LogUnavailable(outcome_unknown=bool(in_doubt)) for _ in batch]
            except Exception:
                if in_doubt:  # the batch may be in the log, so it must not be decided again
                    log.exception("append_in_doubt", commands=len(batch))
                    return [LogUnavailable(outcome_unknown=True) for _ in batch]
                raise
            else:
                self._failed_at = None
                return results
            await asyncio.sleep(pause)  # nothing notifies us when a server is back
            pause = min(1.0, pause * 2 or 0.05)

    async def _append_once(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException]:
        if missing := self._uncached(batch):
            # Before the append lock is taken: loading a long stream must not delay other appends.
            await asyncio.to_thread(load_streams, self._recorder, missing, self._cache)
        if not in_doubt and (results := await self._append_optimistically(batch, in_doubt)) is not None:
            return results
        return await asyncio.to_thread(self._append_under_lock, batch, in_doubt)

    async def _append_optimistically(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException] | None:
        """Decides on cached streams and appends in one round trip. None, with nothing appended, if that is not possible."""
        decider = self._decider()
        if sum(request.size for request in batch) < LARGE_BATCH_BYTES:
            plan = decider.decide_optimistically(batch)
        else:
            plan = await asyncio.to_thread(decider.decide_optimistically, batch)
        if plan is None:
            return None
        try:
            positions = await self._pipeline.call(parameters(plan.write), self._append_timeout_seconds)
        except NotSent:
            raise
        except psycopg.Error as error:
            if isinstance(error, OutcomeUnknown):
                in_doubt.append(plan)
                raise
            # Postgres refused the statement and did nothing. Deciding under the lock finds the reason.
            log.debug("append_refused", commands=len(batch), error_type=type(error).__name__)
            return None
        except BaseException:
            in_doubt.append(plan)  # the batch may have been sent
            raise
        return None if positions is None else self._results(plan, positions)

    def _append_under_lock(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException]:
        """Decides and appends under the append lock, in a few round trips. Blocks."""
        with self._recorder.locked_transaction() as curs:
            for sent_plan in in_doubt:
                if (positions := self._recorder.positions_of(curs, sent_plan.write.rows)) is not None:
                    return self._results(sent_plan, positions)
            plan = self._decider().decide_under_lock(curs, batch)
            if not plan.write.rows:
                return self._results(plan, [])
            positions = self._recorder.insert(curs, plan.write)
            assert positions is not None, "under the lock no stream can have moved"
            in_doubt.append(plan)
            curs.execute("COMMIT")
        return self._results(plan, positions)

    def _decider(self) -> BatchDecider:
        now = self._clock()
        return BatchDecider(
            self._recorder, self._cache, now=now, keys_valid_since=now - self._keep_keys, owner=self._owner
        )

    def _results(self, plan: BatchPlan, positions: Sequence[int]) -> Sequence[Appended | BaseException]:
        """The results of a plan that is durable, or that appends nothing. Never raises: the batch must not be decided again."""
        try:
            results = plan.apply(positions, self._cache)
            self._count(plan)
            for conversation_id, stream in plan.streams.items():
                if stream.needs_snapshot:
                    self._snapshot(conversation_id)
        except Exception:
            log.exception("append_results_failed", commands=len(plan.outcomes))
            return [LogUnavailable(outcome_unknown=True) for _ in plan.outcomes]
        return results

    def _snapshot(self, conversation_id: str) -> None:
        stream = self._cache.get(conversation_id)
        if stream is not None and self._snapshotter.offer(conversation_id, stream):
            self._cache.put(conversation_id, replace(stream, snapshotted=stream.state.version))

    def _uncached(self, batch: Sequence[AppendRequest]) -> list[str]:
        """The existing conversations of the batch whose streams are not cached."""
        conversation_ids = {
            request.conversation_id for request in batch if not isinstance(request.command, StartConversation)
        }
        return [conversation_id for conversation_id in conversation_ids if conversation_id not in self._cache]

    def _count(self, plan: BatchPlan) -> None:
        if plan.write.rows:
            self._metrics.observe_append([row.topic for row in plan.write.rows])
        if plan.races:
            self._metrics.append_conflicts.labels(reason="race").inc(plan.races)
        for outcome in plan.outcomes:
            if isinstance(outcome.error, VersionMismatch):
                self._metrics.append_conflicts.labels(reason="if_match").inc()
