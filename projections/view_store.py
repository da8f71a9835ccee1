"""The interface of a store of views, as view updaters use it."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from infrastructure.event_log.feed import Batch
from projections.views.view_position import ViewPosition


class ViewStore(Protocol):
    """A store with views: `MongoViews`, `ContextView`."""

    views: tuple[str, ...]
    min_batch_seconds: float
    """The least time from the start of one batch to the start of the next (`batch_pace.py`). Without it, a fast store such as Redis would get
    the events one by one, at many times the cost."""

    async def prepare(self) -> None:
        """Creates what the views need before their first write."""

    async def start_over(
        self, view: str, target: int, *, only_incomplete: bool = False, only_from: ViewPosition | None = None
    ) -> None:
        """Empties the view, and moves its positions to before the first event. It is live again when it has reached `target`.

        `only_incomplete`: does nothing if the view has all its positions. `only_from`: does nothing if this position has
        changed since it was read.
        Raises PositionMoved.
        """

    async def end_sessions(self, holders: Sequence[UUID]) -> None:
        """Aborts the transactions that these dead projectors left open."""

    async def apply(self, view_positions: Sequence[ViewPosition], batch: Batch) -> list[ViewPosition]:
        """Writes the batch into the views of these positions, and advances the positions to its end.

        All positions must be at the batch's start. Returns the new positions. Raises PositionMoved if one of them has moved.
        """

    async def flush(self) -> None:
        """Writes the positions that are not in MongoDB yet. Raises PositionMoved."""
