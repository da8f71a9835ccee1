"""Finds out whether a summary is withdrawn.

A summary is withdrawn if an item at a covered depth was deleted or restored after the summary's items were read, or
if the original of a covered copy is deleted.

This is found out when the summary is read, because no event says so.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from context.deleted_content import deleted_items
from context.forks import read_path
from domain.events import ContextCompacted, ConversationDeleted, Fork, ItemRestored, ItemRetracted
from domain.paths import Path, PathSegment
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event after position `after` that deletes or restores something in these conversations."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """As in `context/deleted_content.py`."""


async def is_withdrawn(
    reader: Reader, compacted: Recorded, fork: Fork | None, inherited_by: Collection[str] = ()
) -> bool:
    """`fork`: the origin of the summary's conversation.

    `inherited_by`: the forks through which the summary was inherited. A fork may have retracted a covered item for
    itself.
    """
    summary = compacted.event
    assert isinstance(summary, ContextCompacted)
    own = PathSegment(compacted.conversation_id, compacted.version).up_to(summary.depth)
    path = Path((*(await read_path(reader, own.origin(fork))).segments, own)) if fork else Path((own,))
    # While the summary was written, items of other conversations may have been deleted. So deletions after
    # `read_position` count. `decide` checks the summary's own conversation.
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


async def is_withdrawn_by_own_events(reader: Reader, compacted: Recorded) -> bool:
    """Ignores deletions in other conversations."""
    deletions = await reader.deletions([compacted.conversation_id], after=compacted.position)
    return any(is_withdrawn_by(compacted, deletion) for deletion in deletions)


def _is_covered_and_inherited(deletion: Recorded, summary: ContextCompacted) -> bool:
    event = deletion.event
    return isinstance(event, ItemRetracted | ItemRestored) and event.inherited and event.depth <= summary.depth


def is_withdrawn_by(compacted: Recorded, deletion: Recorded) -> bool:
    """`deletion`: an event of the summary's own conversation. An item on any branch counts."""
    assert isinstance(compacted.event, ContextCompacted)
    match event := deletion.event:
        case ItemRetracted() | ItemRestored():
            return deletion.version > compacted.version and event.depth <= compacted.event.depth
        case _:
            return False


def _withdraws(deletion: Recorded, compacted: Recorded, path: Path) -> bool:
    match event := deletion.event:
        case ItemRetracted() | ItemRestored() if deletion.conversation_id == compacted.conversation_id:
            return is_withdrawn_by(compacted, deletion)
        case ItemRetracted() | ItemRestored():
            return path.contains(deletion.conversation_id, event.branch, event.depth, version=0)
        case ConversationDeleted():
            return True
        case _:
            return False
