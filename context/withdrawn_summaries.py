"""Whether a summary is withdrawn: something that it tells of was deleted after it was written.

The rules of a conversation (`domain/conversation.py`) withdraw a summary with the ItemRetracted of an item that it covers. In a fork, and
where it covers copies, a summary also tells of items of other conversations. What is deleted there is only known when the summary is read.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from domain.events import ContextCompacted, ConversationDeleted, ConversationStarted, Event, Fork, ItemRetracted
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event after position `after` that deletes an item, a response, or one of these conversations."""

    async def deleted_items(self, item_ids: Collection[str]) -> set[str]:
        """Which of these items were retracted, or are in a deleted conversation."""


async def fork_of(reader: Reader, conversation_id: str) -> Fork | None:
    """Where the conversation comes from; None if it is no fork."""
    page = await reader.conversation(conversation_id, limit=1)
    if not page or not isinstance(started := page[0].event, ConversationStarted):
        raise LogMoved(f"the log no longer has the first event of {conversation_id}")
    return started.forked_from


async def inherited_depths(reader: Reader, fork: Fork | None) -> dict[str, int]:
    """The conversations that a fork inherits items from, each with the depth of the last item that it inherits."""
    depths: dict[str, int] = {}
    while fork is not None:
        depths[fork.conversation_id] = min([fork.depth, *depths.values()])
        fork = await fork_of(reader, fork.conversation_id)
    return depths


async def is_withdrawn(reader: Reader, compacted: Recorded, fork: Fork | None) -> bool:
    """Whether something that a summary covers was deleted after its items were read.

    `compacted`: its ContextCompacted. `fork`: where its conversation comes from; None if it is no fork.
    """
    summary = compacted.event
    assert isinstance(summary, ContextCompacted)
    depths = {**await inherited_depths(reader, fork), compacted.conversation_id: summary.depth}
    # While a summary was written, something may have been deleted in other conversations. In its own one it would have been refused.
    read_position = min(compacted.position, summary.read_position or compacted.position)
    for deletion in await reader.deletions(list(depths), after=read_position):
        is_before = deletion.conversation_id == compacted.conversation_id and deletion.version < compacted.version
        depth = min(summary.depth, depths[deletion.conversation_id])
        if not is_before and _deletes_up_to(depth, deletion.event):
            return True
    return bool(summary.originals) and bool(await reader.deleted_items(summary.originals))


def _deletes_up_to(depth: int, event: Event) -> bool:
    """Whether the event deletes an item that lies no deeper than `depth`."""
    match event:
        case ItemRetracted():
            return event.depth <= depth
        case ConversationDeleted():
            return True
        case _:
            return False
