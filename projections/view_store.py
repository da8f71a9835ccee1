"""The interface of a store of views."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from infrastructure.event_log.feed import Batch
from projections.views.view_position import ViewPosition


class ViewStore(Protocol):
    views: tuple[str, ...]
    min_batch_seconds: float
    """The least time between the starts of two batches. Does not apply while views are behind.

    In Redis, an event that is written alone costs many times as much as in a batch.
    """

    async def prepare(self) -> None:
        """Called before the first write."""

    async def start_over(
        self, view: str, target: int, *, only_incomplete: bool = False, only_from: ViewPosition | None = None
    ) -> None:
        """Empties the view, and moves its positions to before the first event. The view is live again at `target`.

        `only_incomplete`, `only_from`: as in ViewPositions.start_over. Raises PositionMoved.
        """

    async def end_sessions(self, holders: Sequence[UUID]) -> None:
        """Aborts the transactions that these dead projectors left open."""

    async def apply(self, view_positions: Sequence[ViewPosition], batch: Batch) -> list[ViewPosition]:
        """Writes the batch, and advances the positions to its end. Returns the new positions.

        All positions must be at the batch's start. Raises PositionMoved if a position has moved.
        """

    async def flush(self) -> None:
        """Writes the positions that are not in MongoDB yet. Raises PositionMoved."""
