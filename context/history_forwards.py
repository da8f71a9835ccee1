"""Reads a path forwards from the log: from its first item or any other, through a fork's origin into the fork."""

from collections.abc import AsyncIterator

from msgspec import Struct

from context.conversation_settings import Reader, unretracted
from context.history_backwards import PAGE_EVENTS
from domain.events import ConversationStarted, ItemAppended, ItemRetracted
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded


class PathSegment(Struct, frozen=True):
    """The part of a path that lies in one conversation: its items down to `max_depth`, as they were at version `until`."""

    conversation_id: str
    until: int
    max_depth: int | None


async def path_segments(reader: Reader, conversation_id: str, version: int) -> list[PathSegment]:
    """The segments of a path, oldest first. A conversation that is no fork has one."""
    segments = [PathSegment(conversation_id, version, None)]
    while True:
        page = await reader.conversation(segments[0].conversation_id, limit=1)
        if not page or not isinstance(first := page[0].event, ConversationStarted):
            raise LogMoved(f"the log no longer has the first event of {segments[0].conversation_id}")
        if (fork := first.forked_from) is None:
            return segments
        max_depth = fork.depth if segments[0].max_depth is None else min(segments[0].max_depth, fork.depth)
        segments.insert(0, PathSegment(fork.conversation_id, fork.version, max_depth))


async def path(
    reader: Reader, conversation_id: str, version: int, *, after: str | None = None, first: str | None = None
) -> AsyncIterator[ItemAppended]:
    """The unretracted items of the path at `version`, oldest first: all, those from `first` on, or those after `after`."""
    segments = await path_segments(reader, conversation_id, version)
    row: Recorded | None = None
    if (item_id := first or after) is not None:
        while segments and (row := await _appended(reader, segments[0], item_id)) is None:
            segments.pop(0)
    for segment in segments:
        after_version = 0
        if row is not None:
            after_version, row = row.version - (first is not None), None
        async for event in _items(reader, segment, after_version):
            yield event


async def _items(reader: Reader, segment: PathSegment, after_version: int) -> AsyncIterator[ItemAppended]:
    conversation_id, until = segment.conversation_id, segment.until
    while page := await reader.conversation(conversation_id, after=after_version, until=until, limit=PAGE_EVENTS):
        after_version = page[-1].version
        retracted = {recorded.event.item_id for recorded in page if isinstance(recorded.event, ItemRetracted)}
        appended = [recorded.event for recorded in page if isinstance(recorded.event, ItemAppended)]
        if after_version < until:  # later pages may retract items of this one
            ids = [event.item_id for event in appended]
            retracted |= set(ids) - (await unretracted(reader, conversation_id, until, ids)).keys()
        for event in appended:
            if event.item_id not in retracted and (segment.max_depth is None or event.depth <= segment.max_depth):
                yield event


async def _appended(reader: Reader, segment: PathSegment, item_id: str) -> Recorded | None:
    for recorded in await reader.items(segment.conversation_id, [item_id], until=segment.until):
        if isinstance(recorded.event, ItemAppended):
            return recorded
    return None
