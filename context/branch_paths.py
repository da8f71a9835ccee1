"""Reads from the log which branches a path takes: the path that was active at a version, and the path to an item or to a branch's end."""

from typing import Protocol

from domain.events import HeadMoved, ItemAppended, PathBranch
from domain.paths import FIRST_BRANCH
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def head_moved(self, conversation_id: str, *, until: int) -> Recorded | None:
        """The last HeadMoved with version <= `until`; None if there is none."""


async def active_branches(reader: Reader, conversation_id: str, version: int) -> tuple[PathBranch, ...]:
    """The branches that the active path took at this version."""
    moved = await reader.head_moved(conversation_id, until=version)
    return FIRST_BRANCH if moved is None or not isinstance(moved.event, HeadMoved) else moved.event.path


async def branches_to(
    reader: Reader, conversation_id: str, end: PathBranch, *, until: int | None = None
) -> tuple[PathBranch, ...] | None:
    """The branches that the path takes to `end`. None if the conversation has no such branch at version `until`."""
    if end.branch == 0:
        return (end,)
    if until is not None and end.branch > until:
        return None
    page = await reader.conversation(conversation_id, limit=1, after=end.branch - 1, until=end.branch)
    opening = page[0].event if page else None
    if not isinstance(opening, ItemAppended) or opening.branch != end.branch:
        return None
    return (*opening.leaves, end)
