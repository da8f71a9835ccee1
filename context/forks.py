"""Reads from the log what a conversation was forked from, its path back through all its origins, and items that it has or inherits."""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from domain.events import ConversationStarted, Fork, ItemAppended
from domain.paths import Path, PathSegment
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded

MAX_LOOKUP_ITEMS: Final = 500
"""Items looked up at a time."""


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""


async def fork_of(reader: Reader, conversation_id: str) -> Fork | None:
    """What the conversation was forked from; None if it is no fork. Raises LogMoved if the log no longer has its first event."""
    page = await reader.conversation(conversation_id, limit=1)
    if not page or not isinstance(started := page[0].event, ConversationStarted):
        raise LogMoved(f"the log no longer has the first event of {conversation_id}")
    return started.forked_from


async def lineage(reader: Reader, conversation_id: str) -> list[str]:
    """The conversation, the one that it was forked from, and so on, back to the first one."""
    conversations = [conversation_id]
    while (fork := await fork_of(reader, conversations[-1])) is not None:
        conversations.append(fork.conversation_id)
    return conversations


async def lineage_below(reader: Reader, conversation_id: str, origin_id: str) -> list[str]:
    """The conversation and the forks between it and `origin_id`, a conversation that it comes from. `origin_id` is not included."""
    conversations = await lineage(reader, conversation_id)
    return conversations[: conversations.index(origin_id)]


class ItemReader(Reader, Protocol):
    """What `appended_items` needs of the log."""

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event with version <= `until` whose row key is one of these ids, ascending."""


async def appended_items(
    reader: ItemReader, conversation_id: str, item_ids: Collection[str]
) -> dict[str, ItemAppended]:
    """The ItemAppended of each of these items that the conversation, or one that it comes from, has."""
    found: dict[str, ItemAppended] = {}
    while missing := [item_id for item_id in item_ids if item_id not in found]:
        for start in range(0, len(missing), MAX_LOOKUP_ITEMS):
            events = await reader.items(conversation_id, missing[start : start + MAX_LOOKUP_ITEMS])
            found |= {event.item_id: event for recorded in events if isinstance(event := recorded.event, ItemAppended)}
        if len(found) == len(item_ids) or (fork := await fork_of(reader, conversation_id)) is None:
            break
        conversation_id = fork.conversation_id
    return found


async def read_path(reader: Reader, end: PathSegment) -> Path:
    """The path whose newest segment is `end`."""
    path = Path((end,))
    while (fork := await fork_of(reader, path.segments[0].conversation_id)) is not None:
        path = path.after_origin(fork)
    return path
