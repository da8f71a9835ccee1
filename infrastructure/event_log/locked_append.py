"""Appends requests under the append lock if they need the log, or if sending them failed or got no answer.

Requests that append nothing are answered without the lock if possible, so they delay no append.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import psycopg
import structlog
from eventsourcing.persistence import InterfaceError, InternalError, OperationalError
from psycopg.rows import tuple_row

from infrastructure.event_log.append_request import Appended, AppendRequest, LogUnavailable, independent_of
from infrastructure.event_log.batch_decider import BatchDecider
from infrastructure.event_log.batch_plan import BatchPlan
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.stream_loader import BatchStreams, StreamLoader, StreamsLost
from infrastructure.event_log.streams import StreamCache
from infrastructure.event_log.write import Write

Results = Sequence[Appended | BaseException]

_CONNECTION_ERRORS = (
    *(OperationalError, InterfaceError, InternalError),
    *(psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError),
)

log = structlog.get_logger(__name__)


class LockedAppend:
    """`results_of` makes the results of a durable plan. `on_interruption` is called when Postgres refused or did not answer."""

    def __init__(
        self,
        recorder: ConversationRecorder,
        cache: StreamCache,
        loader: StreamLoader,
        *,
        new_decider: Callable[[], BatchDecider],
        results_of: Callable[[BatchPlan, Sequence[int]], Results],
        on_interruption: Callable[[], None],
    ) -> None:
        self._recorder = recorder
        self._cache = cache
        self._loader = loader
        self._new_decider = new_decider
        self._results_of = results_of
        self._on_interruption = on_interruption

    async def append(
        self, requests: Sequence[AppendRequest], timeout_seconds: float, in_doubt: Sequence[BatchPlan] = ()
    ) -> Results:
        """While Postgres is unavailable, retries for `timeout_seconds`. Never raises.

        `in_doubt`: plans that were sent for these requests and not answered. Postgres may still commit one of these
        plans.
        """
        plans = list(in_doubt)
        try:
            answered = {} if plans else await asyncio.to_thread(self._answer_without_lock, requests)
            remaining = [request for request in requests if id(request) not in answered]
            appended = await self._append_with_retries(remaining, timeout_seconds, plans) if remaining else ()
            results = {**answered, **{id(request): result for request, result in zip(remaining, appended, strict=True)}}
            return [results[id(request)] for request in requests]
        except Exception as error:
            if plans:  # the requests may be in the log, so they must not be decided again
                log.exception("append_in_doubt", commands=len(requests))
                return [LogUnavailable(outcome_unknown=True) for _ in requests]
            # One command may have made the whole batch fail. Appended one by one, only that command fails.
            if len(requests) > 1:
                return [result for request in requests for result in await self.append([request], timeout_seconds)]
            log.exception("append_failed", conversation_id=requests[0].conversation_id)
            return [error]

    async def _append_with_retries(
        self, requests: Sequence[AppendRequest], timeout_seconds: float, in_doubt: list[BatchPlan]
    ) -> Results:
        """Adds each sent plan to `in_doubt`."""
        give_up_at = time.monotonic() + timeout_seconds
        pause = 0.0
        while True:
            try:
                return await asyncio.to_thread(self._append_once, requests, in_doubt)
            except (StreamsLost, *_CONNECTION_ERRORS) as error:
                if not isinstance(error, StreamsLost):
                    self._on_interruption()
                error_type = type(error.__cause__ or error).__name__
                log.warning("append_interrupted", commands=len(requests), error_type=error_type)
                if time.monotonic() + pause > give_up_at:
                    return [LogUnavailable(outcome_unknown=bool(in_doubt)) for _ in requests]
            await asyncio.sleep(pause)  # nothing notifies us when a server is back
            pause = min(0.25, pause * 2 or 0.05)

    def _answer_without_lock(self, requests: Sequence[AppendRequest]) -> dict[int, Appended | BaseException]:
        """The results, by `id(request)`, of requests that append nothing and depend on no request that appends."""
        try:
            streams = self._streams_of(requests)
            with self._recorder.datastore.get_connection() as connection:
                curs = connection.cursor(row_factory=tuple_row)
                plan = self._new_decider().decide_on_log(curs, requests, streams)
        except (StreamsLost, *_CONNECTION_ERRORS):
            return {}  # all requests are decided again under the lock
        appending = [outcome.request for outcome in plan.outcomes if outcome.events]
        final = {id(request) for request in independent_of(appending, requests)}
        outcomes = [outcome for outcome in plan.outcomes if id(outcome.request) in final]
        results = self._results_of(BatchPlan(outcomes, Write([]), {}, {}), [])
        return {id(outcome.request): result for outcome, result in zip(outcomes, results, strict=True)}

    def _streams_of(self, requests: Sequence[AppendRequest]) -> BatchStreams:
        cached, missing = self._cache.find(requests)
        loaded = self._loader.load(missing) if missing else BatchStreams()
        return BatchStreams({**cached, **loaded.streams}, loaded.unreadable)

    def _append_once(self, requests: Sequence[AppendRequest], in_doubt: list[BatchPlan]) -> Results:
        # The streams are loaded before the append lock is taken, because a long stream must not delay other appends.
        streams = self._streams_of(requests)
        with self._recorder.locked_transaction() as curs:
            for sent_plan in in_doubt:
                if (positions := self._recorder.positions_of(curs, sent_plan.write.rows)) is not None:
                    return self._results_of(sent_plan, positions)
            try:
                plan = self._new_decider().decide_on_log(curs, requests, streams)
            except StreamsLost as lost:
                self._loader.drop(curs, lost.streams)
                raise
            if not plan.write.rows:
                return self._results_of(plan, [])
            positions = self._recorder.insert(curs, plan.write)
            if positions is None:
                raise psycopg.OperationalError("A stream moved, or a key was used, under the append lock.")
            in_doubt.append(plan)
            curs.execute("COMMIT")
        return self._results_of(plan, positions)
