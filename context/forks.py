"""Reads from the log what a conversation was forked from, and what it inherits."""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from domain.events import ConversationStarted, Fork, ItemAppended
from domain.paths import Path, PathSegment
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded

MAX_LOOKUP_ITEMS: Final = 500


class Reader(Protocol):
    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending."""


async def fork_of(reader: Reader, conversation_id: str) -> Fork | None:
    """None if the conversation is no fork. Raises LogMoved if the log has lost the conversation's first event."""
    page = await reader.conversation(conversation_id, limit=1)
    if not page or not isinstance(started := page[0].event, ConversationStarted):
        raise LogMoved(f"the log no longer has the first event of {conversation_id}")
    return started.forked_from


async def lineage(reader: Reader, conversation_id: str) -> list[str]:
    """The conversation and all its origins, the nearest origin first."""
    conversations = [conversation_id]
    while (fork := await fork_of(reader, conversations[-1])) is not None:
        conversations.append(fork.conversation_id)
    return conversations


async def lineage_below(reader: Reader, conversation_id: str, origin_id: str) -> list[str]:
    """The lineage up to `origin_id`, without `origin_id`."""
    conversations = await lineage(reader, conversation_id)
    return conversations[: conversations.index(origin_id)]


class ItemReader(Reader, Protocol):
    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event with version <= `until` whose row key is one of these ids, ascending."""


async def appended_items(
    reader: ItemReader, conversation_id: str, item_ids: Collection[str]
) -> dict[str, ItemAppended]:
    """Looks for the items in the conversation, then in its origins."""
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
    path = Path((end,))
    while (fork := await fork_of(reader, path.segments[0].conversation_id)) is not None:
        path = path.after_origin(fork)
    return path
