"""A view whose next event can not be written, for another reason than a store that is away.

It is tried in ever smaller steps, up to the very event. When that one has failed three times within about two seconds, its
conversation is to be parked, and the steps grow again. Where that would not help (the store refuses whatever comes, or too
many are parked already) the view stays there, logged and not ready, and tries again at growing intervals.
"""

import time
from collections.abc import Container
from typing import Literal

import structlog
from msgspec import Struct

from projections.feed import BATCH_EVENTS, Batch
from projections.parking import MAX_PARKED, is_of_the_event
from projections.views.partitions import view_of_key
from projections.views.view_position import ViewPosition

TRIES = 3
_FIRST_RETRY, _GROWTH, _MAX_RETRY = 0.5, 3.0, 30.0

Verdict = Literal["narrowed", "waits", "park"]
"""A smaller batch is worth a try now; the same is worth one later; the conversation of its event is to be parked."""

log = structlog.get_logger(__name__)


class RetryState(Struct):
    """Of one place: how many events it tries at once, how often the one at `event` failed, and when it is tried again."""

    limit: int
    event: int | None = None
    failures: int = 0
    retry_at: float = 0.0


class RetryPolicy:
    """Of the places of one lane, by their `ident`."""

    def __init__(self) -> None:
        self._places: dict[str, RetryState] = {}

    def __contains__(self, place: str) -> bool:
        return place in self._places

    def keep(self, places: Container[str]) -> None:
        """Forgets those of other places: they are another process's now."""
        self._places = {name: trouble for name, trouble in self._places.items() if name in places}

    @property
    def stuck(self) -> bool:
        """Whether one stands before an event that failed."""
        return any(trouble.failures for trouble in self._places.values())

    def limit(self, place: str) -> int:
        """How many events may be tried at once."""
        trouble = self._places.get(place)
        return trouble.limit if trouble else BATCH_EVENTS

    def waits(self, place: str) -> bool:
        """Whether it is too early to try it again."""
        trouble = self._places.get(place)
        return trouble is not None and trouble.retry_at > time.monotonic()

    def failed(self, place: ViewPosition, batch: Batch, error: Exception) -> Verdict:
        """A batch of this place alone failed; an empty one could not be read."""
        trouble = self._places.setdefault(place.key, RetryState(BATCH_EVENTS))
        if len(batch.events) > 1:
            trouble.limit = len(batch.events) // 2
            log.warning("projection_narrowed", projection=place.view, position=place.position, events=trouble.limit)
            return "narrowed"
        stuck_at = batch.events[0] if batch.events else None
        event = stuck_at.position if stuck_at else None
        if trouble.event != event:
            trouble.event, trouble.failures = event, 0
        trouble.limit = 1
        pause = min(_MAX_RETRY, _FIRST_RETRY * _GROWTH**trouble.failures)
        trouble.failures += 1
        trouble.retry_at = time.monotonic() + pause
        parkable = stuck_at is not None and is_of_the_event(error)
        if parkable and trouble.failures >= TRIES and len(place.parked) < MAX_PARKED:
            return "park"
        log.error(
            "projection_stuck",
            projection=place.view,
            position=place.position,
            event_position=event,
            conversation_id=stuck_at.conversation_id if stuck_at else None,
            request_id=stuck_at.correlation_id if stuck_at else None,
            parked=len(place.parked),
            retry_seconds=pause,
            exc_info=error,
        )
        return "waits"

    def parked(self, place: str) -> None:
        """The event that failed is nobody's trouble any more."""
        self._places[place] = RetryState(limit=1)

    def written(self, place: str, batch: Batch) -> None:
        """A batch of the place was written: it may take twice as much next, and is out of trouble when it took all there was."""
        trouble = self._places.get(place)
        if trouble is None:
            return
        if trouble.failures:
            log.info("projection_freed", projection=view_of_key(place), position=batch.end)
        took_all = len(batch.events) < trouble.limit
        trouble.failures, trouble.limit = 0, trouble.limit * 2
        if took_all or trouble.limit >= BATCH_EVENTS:
            del self._places[place]
