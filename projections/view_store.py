"""What a lane asks of the store whose views it brings forward."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from infrastructure.event_log.recorded import Logged
from projections.views.view_position import ViewPosition


class ViewStore(Protocol):
    """A store with views: `MongoViews`, `ContextView`."""

    views: tuple[str, ...]
    pace_seconds: float
    """How soon after one batch the next may begin: a store that is done at once would take events one by one, at many times the cost."""

    async def prepare(self) -> None:
        """Makes what the views need before their first write."""

    async def begin_anew(
        self, view: str, target: int, *, only_first: bool = False, only_ahead_of: int | None = None
    ) -> None:
        """From now on the view is empty, and live when it has come to `target`.

        With `only_first` only where it was never begun, with `only_ahead_of` only where it shows more than that position. Raises
        PositionMoved.
        """

    async def end_others(self, holders: Sequence[UUID]) -> None:
        """Breaks off what these projectors, who have fallen silent, have begun and not committed."""

    async def apply(self, places: Sequence[ViewPosition], new: int, batch: Sequence[Logged]) -> list[ViewPosition]:
        """Writes into the views what the batch has for their places, all at one position, and moves them to `new`.

        Says where they then are. Raises PositionMoved when they are elsewhere.
        """

    async def settle(self) -> None:
        """Writes down the positions that it has not yet. Raises PositionMoved."""
