"""A view whose next event can not be written, for another reason than a store that is away.

It is tried in ever smaller steps, up to the very event. There it stays, logged and not ready, and tries again at growing
intervals, until that event can be written; then its steps grow again. It skips nothing.
"""

import time

import structlog
from msgspec import Struct

from projections.feed import BATCH_EVENTS, Batch
from projections.positions import Place

_FIRST_RETRY, _LONGEST_RETRY = 0.5, 30.0

log = structlog.get_logger(__name__)


class Trouble(Struct):
    """Of one view: how many events it tries at once, how often the first of them failed, and when it is tried again."""

    limit: int
    failures: int = 0
    retry_at: float = 0.0


class Troubles:
    """Of the views of one lane."""

    def __init__(self) -> None:
        self._views: dict[str, Trouble] = {}

    def __contains__(self, view: str) -> bool:
        return view in self._views

    @property
    def stuck(self) -> bool:
        """Whether a view stands before an event that failed."""
        return any(trouble.failures for trouble in self._views.values())

    def limit(self, view: str) -> int:
        """How many events the view may try at once."""
        trouble = self._views.get(view)
        return trouble.limit if trouble else BATCH_EVENTS

    def waits(self, view: str) -> bool:
        """Whether it is too early to try the view again."""
        trouble = self._views.get(view)
        return trouble is not None and trouble.retry_at > time.monotonic()

    def failed(self, place: Place, batch: Batch, error: Exception) -> bool:
        """A batch of this view alone failed; an empty one could not be read. Says whether a smaller one is worth a try now."""
        trouble = self._views.setdefault(place.view, Trouble(BATCH_EVENTS))
        if len(batch.events) > 1:
            trouble.limit = len(batch.events) // 2
            log.warning("projection_narrowed", projection=place.view, position=place.position, events=trouble.limit)
            return True
        trouble.limit = 1
        pause = min(_LONGEST_RETRY, _FIRST_RETRY * 2.0**trouble.failures)
        trouble.failures += 1
        trouble.retry_at = time.monotonic() + pause
        stuck_at = batch.events[0] if batch.events else None
        log.error(
            "projection_stuck",
            projection=place.view,
            position=place.position,
            event_position=stuck_at.position if stuck_at else None,
            conversation_id=stuck_at.conversation_id if stuck_at else None,
            request_id=stuck_at.correlation_id if stuck_at else None,
            retry_seconds=pause,
            exc_info=error,
        )
        return False

    def written(self, view: str, batch: Batch) -> None:
        """A batch of the view was written: it may take twice as much next, and is out of trouble when it took all there was."""
        trouble = self._views.get(view)
        if trouble is None:
            return
        if trouble.failures:
            log.info("projection_freed", projection=view, position=batch.end)
        took_all = len(batch.events) < trouble.limit
        trouble.failures, trouble.limit = 0, trouble.limit * 2
        if took_all or trouble.limit >= BATCH_EVENTS:
            del self._views[view]
