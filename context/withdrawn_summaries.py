"""Whether a summary is withdrawn: something that it tells of was deleted after it was written.

The rules of a conversation (`domain/conversation.py`) withdraw a summary with the ItemRetracted of an item that it covers. In a fork, and
where it covers copies, a summary also tells of items of other conversations. What is deleted there is only known when the summary is read.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from context.forks import read_path
from domain.events import ContextCompacted, ConversationDeleted, Fork, ItemRetracted
from domain.paths import Path, PathSegment
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


async def is_withdrawn(reader: Reader, compacted: Recorded, fork: Fork | None) -> bool:
    """Whether something that a summary covers was deleted after its items were read.

    `compacted`: its ContextCompacted. `fork`: where its conversation comes from; None if it is no fork.
    """
    summary = compacted.event
    assert isinstance(summary, ContextCompacted)
    own = PathSegment(compacted.conversation_id, compacted.version).up_to(summary.depth)
    path = Path((*(await read_path(reader, own.origin(fork))).segments, own)) if fork else Path((own,))
    # While a summary was written, something may have been deleted in other conversations. In its own one it would have been refused.
    read_position = min(compacted.position, summary.read_position or compacted.position)
    conversations = [segment.conversation_id for segment in path.segments]
    for deletion in await reader.deletions(conversations, after=read_position):
        is_before = deletion.conversation_id == compacted.conversation_id and deletion.version < compacted.version
        if not is_before and _deletes_on(path, deletion):
            return True
    return bool(summary.originals) and bool(await reader.deleted_items(summary.originals))


def _deletes_on(path: Path, deletion: Recorded) -> bool:
    """Whether the event deletes an item of the path, or one of its conversations."""
    match event := deletion.event:
        case ItemRetracted():
            return path.contains(deletion.conversation_id, event.branch, event.depth, version=0)
        case ConversationDeleted():
            return True
        case _:
            return False
