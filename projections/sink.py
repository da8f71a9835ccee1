"""What a lane asks of the store whose views it brings forward."""

from collections.abc import Sequence
from typing import Protocol

from infrastructure.event_log.reader import Logged
from projections.positions import Place


class Sink(Protocol):
    """A store with views: `MongoViews`, `ContextView`."""

    views: tuple[str, ...]

    async def prepare(self) -> None:
        """Makes what the views need before their first write."""

    async def apply(self, places: Sequence[Place], new: int, batch: Sequence[Logged]) -> list[Place]:
        """Writes the batch into views at one position with the same conversations parked, but for what is of these.

        Moves the views to `new`, and says where they then are. Raises Fenced when they are elsewhere.
        """

    async def empty_some(self, place: Place) -> bool:
        """Removes some of a view that is being emptied; says whether it is empty now. Raises Fenced."""
