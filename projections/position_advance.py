"""The updates that advance view positions. The updates match only positions that are still as they were read. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from infrastructure.event_log.incarnation import LogPosition
from infrastructure.stores.mongodb import Document
from projections.views.view_position import ViewPosition


class PositionMoved(Exception):
    """A view position is not as it was read, or two positions that must be equal differ. Load the positions again.

    If the outcome of a commit is unknown, the batch may have been written.
    """

    def __init__(self, views: Iterable[str], position: int) -> None:
        super().__init__(f"{', '.join(sorted(set(views)))} moved away from position {position}")


class Advance(Struct, frozen=True):
    """An update, and the positions before and after it."""

    before: Sequence[ViewPosition]
    after: list[ViewPosition]
    where: Document
    change: Document

    def result(self, matched: int) -> list[ViewPosition]:
        """Raises PositionMoved unless the filter matched all of the old positions."""
        if matched != len(self.before):
            raise PositionMoved((position.view for position in self.before), self.before[0].position)
        return self.after


def advances(view_positions: Sequence[ViewPosition], new: LogPosition, released: Collection[str] = ()) -> list[Advance]:
    """The updates that advance the positions to `new`, and end the parking of the `released` conversations.

    All positions must be at the same event.
    """
    by_becomes_live: defaultdict[bool, list[tuple[ViewPosition, ViewPosition]]] = defaultdict(list)
    for before in view_positions:
        after = before.advanced(new, released)
        by_becomes_live[before.state != after.state].append((before, after))
    updates: list[Advance] = []
    for becomes_live, pairs in by_becomes_live.items():
        change: Document = {"$set": {**fields_of(new), **({"state": "live"} if becomes_live else {})}}
        if released:
            change |= {"$inc": {"epoch": 1}, "$unset": {parked_field(conversation): "" for conversation in released}}
        before_all, after_all = [before for before, _ in pairs], [after for _, after in pairs]
        updates.append(Advance(before_all, after_all, unmoved(before_all), change))
    return updates


def fields_of(log_position: LogPosition) -> Document:
    return {
        "position": log_position.position,
        "chain_hash": log_position.chain_hash,
        "incarnation": log_position.incarnation,
    }


def unmoved(view_positions: Iterable[ViewPosition]) -> Document:
    """A filter that matches the positions that have not changed since they were read."""
    keys_at: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for view_position in view_positions:
        keys_at[view_position.position, view_position.epoch].append(view_position.key)
    return {
        "$or": [
            {"_id": {"$in": keys}, "position": position, "epoch": epoch} for (position, epoch), keys in keys_at.items()
        ]
    }


def parked_field(conversation_id: str) -> str:
    return f"parked.{conversation_id}"
