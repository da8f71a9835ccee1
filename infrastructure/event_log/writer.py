"""Group commit: one thread per process takes the commands that wait, and commits them together, one lock and one fsync.

Whatever is in the queue when the thread is free makes the batch. A lone command does not wait for company; only after a
batch of several does the thread wait half a millisecond at most for as many to come back. When the answer
to a COMMIT is lost, the batch's rows are looked up under the lock before anything is decided again.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from eventsourcing.persistence import IntegrityError, InterfaceError, InternalError, OperationalError
from msgspec import Struct
from msgspec.structs import replace
from psycopg.rows import tuple_row

from domain.commands import StartConversation
from infrastructure.event_log.batch import Deciding, Plan, keep_side_rows
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.snapshotter import Snapshotter
from infrastructure.event_log.streams import Streams, fold, from_snapshot
from infrastructure.event_log.work import Appended, LogBusy, LogUnavailable, VersionMismatch, Work
from infrastructure.ids import uuid_of
from infrastructure.metrics import Metrics

BATCH_COMMANDS = 128
BATCH_BYTES = 8 * 1024 * 1024
WAITING_COMMANDS = 4096
WAITING_BYTES = 128 * 1024 * 1024
PATIENCE_SECONDS = 10.0
COMPANY_SECONDS = 0.0005
_COLD_ROWS = 2000

_UNSETTLED = (OperationalError, InterfaceError, InternalError, IntegrityError)

log = structlog.get_logger(__name__)


class Waiting(Struct, eq=False):
    """A command in the queue and the caller that awaits it."""

    work: Work
    future: "asyncio.Future[Appended]"
    loop: asyncio.AbstractEventLoop
    since: float


class Writer:
    """The one thread of this process that appends. `submit` may be called from any event loop."""

    def __init__(self, recorder: ConversationRecorder, clock: Callable[[], datetime], metrics: Metrics) -> None:
        self._recorder = recorder
        self._clock = clock
        self._metrics = metrics
        self._streams = Streams()
        self._snapshotter = Snapshotter(recorder)
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._ready = threading.Condition()
        self._awaited = 1
        self._company = 1
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._snapshotter.start()
        self._thread.start()

    def close(self) -> None:
        """Commits what is queued, then stops the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()
        self._snapshotter.close()

    def submit(self, work: Work) -> "asyncio.Future[Appended]":
        """A future of the running loop that is done when the command is durable or refused. Raises LogBusy."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended] = loop.create_future()
        with self._ready:
            if self._closing or len(self._queue) >= WAITING_COMMANDS or self._queued_bytes > WAITING_BYTES:
                raise LogBusy
            self._queue.append(Waiting(work, future, loop, time.monotonic()))
            self._queued_bytes += work.size
            if len(self._queue) >= self._awaited:
                self._ready.notify()
        return future

    def _run(self) -> None:
        while (batch := self._collect()) is not None:
            started = time.perf_counter()
            results = self._results_in_time(batch)
            self._metrics.append_seconds.observe(time.perf_counter() - started)
            self._complete(batch, results)

    def _collect(self) -> list[Waiting] | None:
        """What waits now, bounded in commands and bytes; None when the writer is closed and nothing waits."""
        with self._ready:
            while not self._queue:
                if self._closing:
                    return None
                self._ready.wait()
            self._await_company()
            batch: list[Waiting] = []
            size = 0
            while self._queue and len(batch) < BATCH_COMMANDS:
                size += self._queue[0].work.size
                if batch and size > BATCH_BYTES:
                    break
                batch.append(self._queue.popleft())
                self._queued_bytes -= batch[-1].work.size
            self._company = len(batch)
            return batch

    def _await_company(self) -> None:
        """Waits a moment for as many commands as came together last time: their callers were answered together, and those who
        go on come back one by one. Without it every other batch would be of one command.
        """
        if len(self._queue) < self._company and not self._closing:
            self._awaited = self._company
            self._ready.wait(COMPANY_SECONDS)
            self._awaited = 1

    def _complete(self, batch: Sequence[Waiting], results: Sequence[Appended | BaseException]) -> None:
        """Hands each result to its event loop, one wake-up a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Appended], Appended | BaseException]]] = {}
        for waiting, result in zip(batch, results, strict=True):
            by_loop.setdefault(waiting.loop, []).append((waiting.future, result))
        for loop, done in by_loop.items():
            try:
                loop.call_soon_threadsafe(_set_results, done)
            except RuntimeError:
                log.warning("callers_gone", commands=len(done))  # their event loop was closed; the events stay

    def _results_in_time(self, batch: Sequence[Waiting]) -> Sequence[Appended | BaseException]:
        """The results; those who waited too long already, behind an outage, are told that nothing was appended."""
        if time.monotonic() - batch[0].since > PATIENCE_SECONDS:
            return [LogUnavailable(unknown=False) for _ in batch]
        return self._results([waiting.work for waiting in batch])

    def _results(self, batch: list[Work]) -> Sequence[Appended | BaseException]:
        try:
            return self._append(batch)
        except Exception as error:
            # Something in one command upset the whole batch; alone, each succeeds or fails on its own.
            if len(batch) > 1:
                return [result for work in batch for result in self._results([work])]
            log.exception("append_failed", conversation_id=batch[0].conversation_id)
            return [error]

    def _append(self, batch: list[Work]) -> Sequence[Appended | BaseException]:
        """Appends the batch, through lost connections, until it is settled or PATIENCE_SECONDS have passed."""
        give_up = time.monotonic() + (PATIENCE_SECONDS if not self._closing else 1.0)
        in_doubt: list[Plan] = []
        pause = 0.0
        while True:
            earlier = list(in_doubt)
            try:
                return self._attempt(batch, in_doubt)
            except _UNSETTLED as error:
                log.warning("append_interrupted", commands=len(batch), error_type=type(error).__name__)
                if time.monotonic() + pause > give_up:
                    return [LogUnavailable(unknown=bool(in_doubt)) for _ in batch]
            except Exception:
                if earlier and in_doubt == earlier:  # never decided again, one by one: it may be in the log
                    log.exception("append_in_doubt", commands=len(batch))
                    return [LogUnavailable(unknown=True) for _ in batch]
                raise
            time.sleep(pause)  # the only wait there is: nothing tells us that a server is back
            pause = min(1.0, pause * 2 or 0.05)

    def _attempt(self, batch: list[Work], in_doubt: list[Plan]) -> Sequence[Appended | BaseException]:
        self._load_cold(batch)
        if not in_doubt and (results := self._append_at_once(batch, in_doubt)) is not None:
            return results
        with self._recorder.turn() as curs:
            if in_doubt and (positions := self._recorder.positions_of(curs, in_doubt[0].rows)) is not None:
                return self._settle(in_doubt[0], positions)
            in_doubt.clear()
            plan = Deciding(self._recorder, self._streams, self._clock()).plan(curs, batch)
            if not plan.rows and not any(outcome.keeps_answer for outcome in plan.outcomes):
                return self._settle(plan, [])
            if plan.rows:
                in_doubt.append(plan)
            positions = self._recorder.insert(curs, plan.rows)
            keep_side_rows(curs, plan, positions)
            curs.execute("COMMIT")
        return self._settle(plan, positions)

    def _append_at_once(self, batch: list[Work], in_doubt: list[Plan]) -> list[Appended | BaseException] | None:
        """The batch in one round trip, when it can be decided on what is in memory and that turns out to be current."""
        deciding = Deciding(self._recorder, self._streams, self._clock())
        plan = deciding.ahead(batch)
        if plan is None:
            return None
        in_doubt.append(plan)
        positions = self._recorder.append_at_once(deciding.held_versions(batch), plan.rows)
        if positions is None:
            in_doubt.clear()
            return None
        return self._settle(plan, positions)

    def _settle(self, plan: Plan, positions: Sequence[int]) -> list[Appended | BaseException]:
        """The results of a plan that is durable, or that had nothing to append."""
        self._count(plan)
        results = plan.settle(positions, self._streams)
        for stream_id in plan.ends:
            end = self._streams.get(stream_id)
            if end is not None and end.wants_snapshot and self._snapshotter.offer(stream_id, end):
                self._streams.remember(stream_id, replace(end, snapshotted=end.state.version))
        return results

    def _load_cold(self, batch: Sequence[Work]) -> None:
        """Reads streams this process does not hold, before the lock is taken: a long one must not hold up everyone."""
        asked = {uuid_of(work.conversation_id) for work in batch if not isinstance(work.command, StartConversation)}
        cold = [stream_id for stream_id in asked if self._streams.get(stream_id) is None]
        if not cold:
            return
        with self._recorder.datastore.get_connection() as connection:
            curs = connection.cursor(row_factory=tuple_row)
            snapshots = self._recorder.select_snapshots(curs, cold)
            held = {stream_id: found for stream_id, state in snapshots if (found := from_snapshot(state)) is not None}
            for stream_id in cold:
                rows_read = _COLD_ROWS
                while rows_read == _COLD_ROWS:
                    version = held[stream_id].state.version if stream_id in held else 0
                    rows = self._recorder.select_since(curs, {stream_id: version}, limit=_COLD_ROWS)
                    fold(held, rows)
                    rows_read = len(rows)
        for stream_id, stream in held.items():
            self._streams.remember(stream_id, stream)

    def _count(self, plan: Plan) -> None:
        if plan.rows:
            self._metrics.append_batch_events.observe(len(plan.rows))
        for topic, rows in Counter(row.topic for row in plan.rows).items():
            self._metrics.events_appended.labels(type=topic).inc(rows)
        if plan.races:
            self._metrics.append_conflicts.labels(reason="race").inc(plan.races)
        for outcome in plan.outcomes:
            if isinstance(outcome.error, VersionMismatch):
                self._metrics.append_conflicts.labels(reason="if_match").inc()


def _set_results(done: Sequence[tuple["asyncio.Future[Appended]", Appended | BaseException]]) -> None:
    for future, result in done:
        if future.done():
            continue  # the caller hung up; what was appended stays
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
