"""Finds out whether a summary is withdrawn.

A summary is withdrawn if an item at a depth that it covers was deleted or restored after the items were read for the summary.

When an item is retracted, the rules of its conversation (`domain/conversation.py`) withdraw the summaries that cover it. But a summary in a
fork, or of copies, also covers items of other conversations. Whether these items are deleted is looked up when the summary is read.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from context.deleted_content import deleted_items
from context.forks import read_path
from domain.events import ContextCompacted, ConversationDeleted, Fork, ItemRestored, ItemRetracted
from domain.paths import Path, PathSegment
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event of these conversations after position `after` that deletes or restores an item, or deletes a response or the conversation."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """As in `context/deleted_content.py`."""


async def is_withdrawn(
    reader: Reader, compacted: Recorded, fork: Fork | None, inherited_by: Collection[str] = ()
) -> bool:
    """Whether an item at a depth that a summary covers was deleted or restored after the items were read for the summary.

    `compacted`: the ContextCompacted of the summary. `fork`: what its conversation was forked from; None if it is no fork.
    `inherited_by`: the forks through which the summary was inherited. A fork may have retracted, for itself, an item that the summary covers.
    """
    summary = compacted.event
    assert isinstance(summary, ContextCompacted)
    own = PathSegment(compacted.conversation_id, compacted.version).up_to(summary.depth)
    path = Path((*(await read_path(reader, own.origin(fork))).segments, own)) if fork else Path((own,))
    # While the summary was written, items of other conversations may have been deleted, so this looks for deletions after `read_position`.
    # (If an item of the summary's own conversation is deleted in that time, `decide` refuses the summary.)
    read_position = min(compacted.position, summary.read_position or compacted.position)
    conversations = [segment.conversation_id for segment in path.segments]
    for deletion in await reader.deletions([*conversations, *inherited_by], after=read_position):
        if deletion.conversation_id in inherited_by:
            if _is_covered_and_inherited(deletion, summary):
                return True
            continue
        if _withdraws(deletion, compacted, path):
            return True
    originals = {original: original for original in summary.originals}
    return bool(await deleted_items(reader, originals, [*conversations, *inherited_by]))


def _is_covered_and_inherited(deletion: Recorded, summary: ContextCompacted) -> bool:
    """Whether a fork that inherited the summary has retracted or restored an item at a depth that the summary covers."""
    event = deletion.event
    return isinstance(event, ItemRetracted | ItemRestored) and event.inherited and event.depth <= summary.depth


def _withdraws(deletion: Recorded, compacted: Recorded, path: Path) -> bool:
    """Whether the event deletes or restores an item of the path that the summary covers, or deletes a conversation of that path.

    In the summary's own conversation, an item on any branch counts if it is not deeper than the summary, as in `domain/conversation.py`.
    """
    match event := deletion.event:
        case ItemRetracted() | ItemRestored() if deletion.conversation_id == compacted.conversation_id:
            assert isinstance(compacted.event, ContextCompacted)
            return deletion.version > compacted.version and event.depth <= compacted.event.depth
        case ItemRetracted() | ItemRestored():
            return path.contains(deletion.conversation_id, event.branch, event.depth, version=0)
        case ConversationDeleted():
            return True
        case _:
            return False
