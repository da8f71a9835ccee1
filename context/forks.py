"""Reads from the log what a conversation was forked from, and its path back through all its origins."""

from typing import Protocol

from domain.events import ConversationStarted, Fork
from domain.paths import Path, PathSegment
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded


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


async def read_path(reader: Reader, end: PathSegment) -> Path:
    """The path whose newest segment is `end`."""
    path = Path((end,))
    while (fork := await fork_of(reader, path.segments[0].conversation_id)) is not None:
        path = path.after_origin(fork)
    return path
