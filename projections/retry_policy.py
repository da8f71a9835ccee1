"""Decides what happens when a batch fails although the stores answer.

The batch is halved until it has only the failing event. If that event fails three times, its conversation is parked. If
parking would not help, the event is retried with growing pauses.
"""

import time
from collections.abc import Container
from typing import Literal

import structlog
from msgspec import Struct

from infrastructure.event_log.feed import BATCH_EVENTS, Batch
from projections.parking import MAX_PARKED, is_caused_by_event
from projections.views.partitions import view_of_key
from projections.views.view_position import ViewPosition

TRIES = 3
_FIRST_RETRY, _GROWTH, _MAX_RETRY = 0.5, 3.0, 30.0

Verdict = Literal["retry_smaller", "wait", "park"]
"""Retry now with a smaller batch, retry later, or park the event's conversation."""

log = structlog.get_logger(__name__)


class RetryState(Struct):
    """The state of one view position.

    `limit`: the most events of the next batch. `event`: the position of the failing event.
    """

    limit: int
    event: int | None = None
    failures: int = 0
    retry_at: float = 0.0


class RetryPolicy:
    """The retry states, by the positions' `key`."""

    def __init__(self) -> None:
        self._states: dict[str, RetryState] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._states

    def keep_only(self, keys: Container[str]) -> None:
        self._states = {key: state for key, state in self._states.items() if key in keys}

    @property
    def is_stuck(self) -> bool:
        return any(state.failures for state in self._states.values())

    def limit(self, key: str) -> int:
        state = self._states.get(key)
        return state.limit if state else BATCH_EVENTS

    def must_wait(self, key: str) -> bool:
        state = self._states.get(key)
        return state is not None and state.retry_at > time.monotonic()

    def record_failure(self, view_position: ViewPosition, batch: Batch, error: Exception) -> Verdict:
        """Decides what happens after `error`. The batch is empty if it could not be read."""
        state = self._states.setdefault(view_position.key, RetryState(BATCH_EVENTS))
        if len(batch.events) > 1:
            state.limit = len(batch.events) // 2
            log.warning(
                "projection_batch_halved",
                projection=view_position.view,
                position=view_position.position,
                events=state.limit,
            )
            return "retry_smaller"
        failing = batch.events[0] if batch.events else None
        event = failing.position if failing else None
        if state.event != event:
            state.event, state.failures = event, 0
        state.limit = 1
        pause = min(_MAX_RETRY, _FIRST_RETRY * _GROWTH**state.failures)
        state.failures += 1
        state.retry_at = time.monotonic() + pause
        parkable = failing is not None and is_caused_by_event(error)
        if parkable and state.failures >= TRIES and len(view_position.parked) < MAX_PARKED:
            return "park"
        log.error(
            "projection_stuck",
            projection=view_position.view,
            position=view_position.position,
            event_position=event,
            conversation_id=failing.conversation_id if failing else None,
            request_id=failing.correlation_id if failing else None,
            parked=len(view_position.parked),
            retry_seconds=pause,
            exc_info=error,
        )
        return "wait"

    def record_parked(self, key: str) -> None:
        self._states[key] = RetryState(limit=1)

    def record_success(self, key: str, batch: Batch) -> None:
        """The next batch may be twice as large."""
        state = self._states.get(key)
        if state is None:
            return
        if state.failures:
            log.info("projection_unstuck", projection=view_of_key(key), position=batch.end)
        reached_end = len(batch.events) < state.limit
        state.failures, state.limit = 0, state.limit * 2
        if reached_end or state.limit >= BATCH_EVENTS:
            del self._states[key]
