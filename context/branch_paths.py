"""Reads from the log which branches a path takes."""

from typing import Protocol

from domain.events import HeadMoved, ItemAppended, PathBranch
from domain.paths import PathSegment, is_open
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def head_moved(self, conversation_id: str, *, until: int) -> Recorded | None:
        """The last HeadMoved with version <= `until`; None if there is none."""


async def active_branches(reader: Reader, conversation_id: str, version: int) -> tuple[PathBranch, ...]:
    return (await active_segment(reader, conversation_id, version)).branches


async def active_segment(reader: Reader, conversation_id: str, version: int) -> PathSegment:
    moved = await reader.head_moved(conversation_id, until=version)
    if moved is None or not isinstance(moved.event, HeadMoved):
        return PathSegment(conversation_id, version)
    return active_path(conversation_id, version, moved.event.path, moved.version)


def active_path(conversation_id: str, version: int, branches: tuple[PathBranch, ...], moved_at: int) -> PathSegment:
    """The active path at `version`. `moved_at`: the version of the last HeadMoved, 0 for none."""
    return PathSegment(conversation_id, version, branches, None if is_open(branches) else moved_at)


async def branches_to(
    reader: Reader, conversation_id: str, end: PathBranch, *, until: int | None = None
) -> tuple[PathBranch, ...] | None:
    """The branches of the path that ends with `end`. None if this branch did not exist at `until`, or if the log has lost the branch's start."""
    if end.branch == 0:
        return (end,)
    if until is not None and end.branch > until:
        return None
    opening = await _opening(reader, conversation_id, end.branch)
    return None if opening is None else (*opening.leaves, end)


async def opening_of(reader: Reader, conversation_id: str, event: ItemAppended) -> ItemAppended | None:
    """The event that opened the branch of `event`; None for the first branch.

    Raises LogMoved if the log has lost that event.
    """
    if event.branch == 0 or event.leaves:
        return event if event.branch else None
    opening = await _opening(reader, conversation_id, event.branch)
    if opening is None:
        raise LogMoved(f"the log no longer has the start of branch {event.branch} of {conversation_id}")
    return opening


async def _opening(reader: Reader, conversation_id: str, branch: int) -> ItemAppended | None:
    page = await reader.conversation(conversation_id, limit=1, after=branch - 1, until=branch)
    event = page[0].event if page else None
    return event if isinstance(event, ItemAppended) and event.branch == branch else None
