"""Finds the active summary of a path in the log, and the summaries that undo and redo change.

A summary belongs to each path through the last item that it covers. The newest summary of a path that is neither
undone nor withdrawn is active.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from context.branch_paths import active_segment
from context.forks import fork_of
from context.withdrawn_summaries import is_withdrawn, is_withdrawn_by_own_events
from domain.events import CompactionRedone, CompactionUndone, ContextCompacted, Fork, PathBranch
from domain.paths import PathSegment, takes
from infrastructure.event_log.recorded import Recorded

PAGE_CHANGES = 16
"""A small number, because a summary may be long, and most paths have their active summary among the newest changes."""


class Reader(Protocol):
    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def head_moved(self, conversation_id: str, *, until: int) -> Recorded | None:
        """The last HeadMoved with version <= `until`; None if there is none."""

    async def summary_changes(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` changes of the conversation's summaries with version <= `until`, newest first."""

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event after position `after` that deletes or restores something in these conversations."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """As in `context/deleted_content.py`."""


class SummaryChanges(Struct):
    """Divides the summaries of a path into those that are undone and the others. Gets all changes, newest first.

    undone: (version of the CompactionUndone, summary) of each undone summary that can be redone. A summary that was
    undone before a newer summary of the path was made cannot be redone
    """

    branches: tuple[PathBranch, ...]
    undone: list[tuple[int, Recorded]] = []
    _newest: int = 0
    _undone_at: dict[int, int] = {}
    """By the summary's version. 0: not undone."""
    _older_undos: list[tuple[int, int]] = []
    """(version, active) of each CompactionUndone that does not name the undone summary."""

    def add_older(self, change: Recorded) -> bool:
        """Whether `change` is a summary of the path that is not undone."""
        match event := change.event:
            case CompactionUndone(undone=0):
                self._older_undos.append((change.version, event.active))
            case CompactionUndone():
                self._undone_at.setdefault(event.undone, change.version)
            case CompactionRedone():
                self._undone_at.setdefault(event.active, self._undone_by_older(event.active))
            case ContextCompacted() if takes(self.branches, event.branch, event.depth):
                self._newest = self._newest or change.version
                undone_at = self._undone_at.get(change.version, self._undone_by_older(change.version))
                if undone_at > self._newest:
                    self.undone.append((undone_at, change))
                return undone_at == 0
            case _:
                pass
        return False

    def _undone_by_older(self, summary: int) -> int:
        return min((version for version, active in self._older_undos if active < summary), default=0)


async def usable_summaries(
    reader: Reader,
    path: PathSegment,
    fork: Fork | None,
    *,
    inherited_by: Collection[str] = (),
    changes: SummaryChanges | None = None,
    first_page: Sequence[Recorded] = (),
    by_own_events: bool = False,
) -> AsyncIterator[Recorded]:
    """The summaries of the path that are neither undone nor withdrawn by now, newest first.

    `fork`, `inherited_by`: as in `is_withdrawn`. `changes`: gets the changes that are read. `first_page`: the newest
    changes, if they were read before. `by_own_events`: ignore deletions in other conversations.
    """
    changes = changes or SummaryChanges(path.branches)
    page: Sequence[Recorded] = first_page
    until = path.version
    while page := page or await reader.summary_changes(path.conversation_id, until=until, limit=PAGE_CHANGES):
        for change in page:
            if not changes.add_older(change):
                continue
            if by_own_events:
                withdrawn = await is_withdrawn_by_own_events(reader, change)
            else:
                withdrawn = await is_withdrawn(reader, change, fork, inherited_by)
            if not withdrawn:
                yield change
        until, page = page[-1].version - 1, ()


async def undoable_summary(reader: Reader, conversation_id: str, version: int) -> tuple[int, int]:
    """The versions of the active summary and of the one that is active after an undo. 0 for none."""
    path = await active_segment(reader, conversation_id, version)
    summaries = usable_summaries(reader, path, await fork_of(reader, conversation_id))
    active, previous = await anext(summaries, None), await anext(summaries, None)
    return active.version if active else 0, previous.version if previous else 0


async def redoable_summary(reader: Reader, conversation_id: str, version: int) -> int:
    """The version of the summary that was undone last, if a redo makes it active. 0 for none."""
    path = await active_segment(reader, conversation_id, version)
    fork = await fork_of(reader, conversation_id)
    changes = SummaryChanges(path.branches)
    await anext(usable_summaries(reader, path, fork, changes=changes), None)  # a redone summary must be newer
    for _, summary in sorted(changes.undone, key=lambda undone: undone[0], reverse=True):
        if not await is_withdrawn(reader, summary, fork):
            return summary.version
    return 0
