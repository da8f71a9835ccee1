"""Group commit: two tasks per process take by turns the commands that wait, and commit them together, one lock and one fsync.

While Postgres commits the batch of one, the other decides what came meanwhile, and sends it behind, over the same connection. A lone
command does not wait for company.
A batch is decided on what is in memory and sent in one round trip, which does nothing where that turned out to be old; then it is decided
again under the lock, on what the log says. When the answer to a COMMIT is lost, the batch's rows are looked up under the lock
before anything is decided again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from eventsourcing.persistence import InterfaceError, InternalError, OperationalError
from msgspec.structs import replace
from psycopg.rows import tuple_row

from domain.commands import StartConversation
from infrastructure.event_log.append_request import Appended, AppendRequest, LogUnavailable, VersionMismatch
from infrastructure.event_log.batch_decider import BatchDecider, BatchPlan
from infrastructure.event_log.columns import read_bigints
from infrastructure.event_log.queue import Queue, QueuedAppend
from infrastructure.event_log.recorder import ConversationRecorder, parameters
from infrastructure.event_log.snapshotter import Snapshotter
from infrastructure.event_log.streams import Streams, fold, from_snapshot
from infrastructure.ids import conversation_id, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.stores.postgres_pipeline import NotSent, OutcomeUnknown

PATIENCE_SECONDS = 10.0
MAX_WAIT_SECONDS = 3 * PATIENCE_SECONDS
"""How long a caller waits at most, whatever happens."""

LARGE_BYTES = 256 * 1024
"""A batch from here on is decided in a thread: encoding and compressing it would hold up the event loop."""

_COLD_ROWS = 2000

_UNSETTLED = (
    *(OperationalError, InterfaceError, InternalError),
    *(psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError),
)

log = structlog.get_logger(__name__)


class Writer:
    """What appends for this process. For one event loop."""

    def __init__(
        self,
        recorder: ConversationRecorder,
        clock: Callable[[], datetime],
        metrics: Metrics,
        keep_keys: timedelta,
        owner: UUID | None = None,
    ) -> None:
        self._recorder = recorder
        self._clock = clock
        self._metrics = metrics
        self._keep_keys = keep_keys
        self._owner = owner
        self._queue = Queue()
        self._streams = Streams()
        self._snapshotter = Snapshotter(recorder)
        self._line = recorder.line()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._watch: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._snapshotter.start()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(2)]
        self._let_go_of_late_callers()

    async def close(self) -> None:
        """Commits what is queued, then stops."""
        self._closing = True
        self._queue.close()
        for task in self._tasks:
            await task
        self._line.close()
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.to_thread(self._snapshotter.close)

    def submit(self, work: AppendRequest) -> "asyncio.Future[Appended]":
        """A future that is done when the command is durable or refused. Raises LogBusy."""
        return self._queue.put(work)

    def _let_go_of_late_callers(self) -> None:
        """Once a second: whom Postgres keeps waiting, neither answering nor breaking off, is told so after MAX_WAIT_SECONDS."""
        self._queue.let_go(time.monotonic() - MAX_WAIT_SECONDS)
        self._watch = asyncio.get_running_loop().call_later(1.0, self._let_go_of_late_callers)

    async def _run(self) -> None:
        await self._line.open()
        while batch := await self._queue.take():
            started = time.perf_counter()
            results = await self._results_in_time(batch)
            self._queue.done(batch, results)
            self._metrics.append_seconds.observe(time.perf_counter() - started)

    async def _results_in_time(self, batch: Sequence[QueuedAppend]) -> Sequence[Appended | BaseException]:
        """The results; those who waited too long already, behind an outage, are told that nothing was appended. Never raises."""
        if time.monotonic() - batch[0].since > PATIENCE_SECONDS:
            return [LogUnavailable(outcome_unknown=False) for _ in batch]
        try:
            return await self._results([waiting.work for waiting in batch])
        except Exception:
            log.exception("batch_failed", commands=len(batch))
            return [LogUnavailable(outcome_unknown=True) for _ in batch]

    async def _results(self, batch: list[AppendRequest]) -> Sequence[Appended | BaseException]:
        try:
            return await self._append(batch)
        except Exception as error:
            # Something in one command upset the whole batch; alone, each succeeds or fails on its own.
            if len(batch) > 1:
                return [result for work in batch for result in await self._results([work])]
            log.exception("append_failed", conversation_id=batch[0].conversation_id)
            return [error]

    async def _append(self, batch: list[AppendRequest]) -> Sequence[Appended | BaseException]:
        """Appends the batch, through lost connections, until it is settled or PATIENCE_SECONDS have passed."""
        give_up = time.monotonic() + (PATIENCE_SECONDS if not self._closing else 1.0)
        in_doubt: list[BatchPlan] = []
        pause = 0.0
        while True:
            try:
                return await self._attempt(batch, in_doubt)
            except _UNSETTLED as error:
                log.warning("append_interrupted", commands=len(batch), error_type=type(error).__name__)
                if time.monotonic() + pause > give_up:
                    return [LogUnavailable(outcome_unknown=bool(in_doubt)) for _ in batch]
            except Exception:
                if in_doubt:  # never decided again, one by one: it may be in the log
                    log.exception("append_in_doubt", commands=len(batch))
                    return [LogUnavailable(outcome_unknown=True) for _ in batch]
                raise
            await asyncio.sleep(pause)  # the only wait there is: nothing tells us that a server is back
            pause = min(1.0, pause * 2 or 0.05)

    async def _attempt(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException]:
        """One try. `in_doubt` gets each plan that was sent and not answered: one of them may be in the log, or come there late."""
        if cold := self._cold(batch):
            await asyncio.to_thread(self._load, cold)
        if not in_doubt and (results := await self._append_at_once(batch, in_doubt)) is not None:
            return results
        return await asyncio.to_thread(self._append_under_lock, batch, in_doubt)

    async def _append_at_once(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException] | None:
        """The batch in one round trip, when it can be decided on what is in memory and that turns out to be current."""
        deciding = self._deciding()
        if sum(work.size for work in batch) < LARGE_BYTES:
            plan = deciding.ahead(batch)
        else:
            plan = await asyncio.to_thread(deciding.ahead, batch)
        if plan is None:
            return None
        encoded = parameters(plan.write)
        try:
            positions = await self._line.call(encoded, PATIENCE_SECONDS)
        except NotSent:
            raise
        except psycopg.Error as error:
            if isinstance(error, OutcomeUnknown):
                in_doubt.append(plan)
                raise
            # Nothing was done; behind the lock it is seen why.
            log.debug("append_refused", commands=len(batch), error_type=type(error).__name__)
            return None
        except BaseException:
            in_doubt.append(plan)  # whatever it was, it came when the batch may have been sent
            raise
        return None if positions is None else self._settle(plan, read_bigints(positions))

    def _append_under_lock(
        self, batch: list[AppendRequest], in_doubt: list[BatchPlan]
    ) -> Sequence[Appended | BaseException]:
        """The batch decided and appended behind the lock, in a few round trips. Blocks."""
        with self._recorder.turn() as curs:
            for sent in in_doubt:
                if (positions := self._recorder.positions_of(curs, sent.write.rows)) is not None:
                    return self._settle(sent, positions)
            plan = self._deciding().under_lock(curs, batch)
            if not plan.write.rows:
                return self._settle(plan, [])
            positions = self._recorder.insert(curs, plan.write)
            assert positions is not None, "under the lock nothing can have moved on"
            in_doubt.append(plan)
            curs.execute("COMMIT")
        return self._settle(plan, positions)

    def _deciding(self) -> BatchDecider:
        now = self._clock()
        return BatchDecider(self._recorder, self._streams, now, now - self._keep_keys, self._owner)

    def _settle(self, plan: BatchPlan, positions: Sequence[int]) -> Sequence[Appended | BaseException]:
        """The results of a plan that is durable, or that had nothing to append. Never raises: it must not be decided again."""
        try:
            results = plan.settle(positions, self._streams)
            self._count(plan)
            for ident, end in plan.ends.items():
                if end.wants_snapshot and (kept := self._streams.get(ident)) and self._snapshotter.offer(ident, kept):
                    self._streams.remember(ident, replace(kept, snapshotted=kept.state.version))
        except Exception:
            log.exception("settling_failed", commands=len(plan.outcomes))
            return [LogUnavailable(outcome_unknown=True) for _ in plan.outcomes]
        return results

    def _cold(self, batch: Sequence[AppendRequest]) -> list[str]:
        """The conversations of the batch that this process does not hold."""
        asked = {work.conversation_id for work in batch if not isinstance(work.command, StartConversation)}
        return [ident for ident in asked if ident not in self._streams]

    def _load(self, cold: Sequence[str]) -> None:
        """Reads streams before the lock is taken: a long one must not hold up everyone. Blocks."""
        with self._recorder.datastore.get_connection() as connection:
            curs = connection.cursor(row_factory=tuple_row)
            snapshots = self._recorder.select_snapshots(curs, [uuid_of(ident) for ident in cold])
            held = {
                conversation_id(stream_id): found
                for stream_id, state in snapshots
                if (found := from_snapshot(state)) is not None
            }
            for ident in cold:
                rows_read = _COLD_ROWS
                while rows_read == _COLD_ROWS:
                    version = held[ident].state.version if ident in held else 0
                    rows = self._recorder.select_since(curs, {uuid_of(ident): version}, limit=_COLD_ROWS)
                    fold(held, rows)
                    rows_read = len(rows)
        for ident, stream in held.items():
            self._streams.remember(ident, stream)

    def _count(self, plan: BatchPlan) -> None:
        if plan.write.rows:
            self._metrics.observe_append([row.topic for row in plan.write.rows])
        if plan.races:
            self._metrics.append_conflicts.labels(reason="race").inc(plan.races)
        for outcome in plan.outcomes:
            if isinstance(outcome.error, VersionMismatch):
                self._metrics.append_conflicts.labels(reason="if_match").inc()
