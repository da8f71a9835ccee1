"""A path read forwards from the log: from its first item, or from any other, through a fork's origin into the fork."""

from collections.abc import AsyncIterator

from msgspec import Struct

from context.conversation_settings import Reader, unretracted
from context.history_backwards import PAGE
from domain.events import ConversationStarted, ItemAppended, ItemRetracted
from infrastructure.event_log.recorded import Recorded


class PathSegment(Struct, frozen=True):
    """The part of a path that one conversation has: its items of depth <= `deepest`, as it was at `until`."""

    conversation_id: str
    until: int
    deepest: int | None


async def stretches(reader: Reader, conversation_id: str, version: int) -> list[PathSegment]:
    """Where a path lies, its beginning first: a conversation that is no fork is one stretch."""
    found = [PathSegment(conversation_id, version, None)]
    while True:
        [first] = await reader.conversation(found[0].conversation_id, limit=1)
        assert isinstance(first.event, ConversationStarted)
        if (fork := first.event.forked_from) is None:
            return found
        deepest = fork.depth if found[0].deepest is None else min(found[0].deepest, fork.depth)
        found.insert(0, PathSegment(fork.conversation_id, fork.version, deepest))


async def path(
    reader: Reader, conversation_id: str, version: int, *, after: str | None = None, begin: str | None = None
) -> AsyncIterator[ItemAppended]:
    """The items that the path at `version` has, retracted ones left out, oldest first: from `begin` on, or those after the item `after`."""
    parts = await stretches(reader, conversation_id, version)
    row: Recorded | None = None
    if (mark := begin or after) is not None:
        while parts and (row := await _row(reader, parts[0], mark)) is None:
            parts.pop(0)
    for part in parts:
        passed = 0
        if row is not None:
            passed, row = row.version - (begin is not None), None
        async for event in _items(reader, part, passed):
            yield event


async def _items(reader: Reader, part: PathSegment, passed: int) -> AsyncIterator[ItemAppended]:
    while page := await reader.conversation(part.conversation_id, after=passed, until=part.until, limit=PAGE):
        passed = page[-1].version
        gone = {recorded.event.item_id for recorded in page if isinstance(recorded.event, ItemRetracted)}
        appended = [recorded.event for recorded in page if isinstance(recorded.event, ItemAppended)]
        if passed < part.until:
            held = await unretracted(reader, part.conversation_id, part.until, [event.item_id for event in appended])
            gone |= {event.item_id for event in appended} - held.keys()
        for event in appended:
            if event.item_id not in gone and (part.deepest is None or event.depth <= part.deepest):
                yield event


async def _row(reader: Reader, part: PathSegment, item_id: str) -> Recorded | None:
    for recorded in await reader.items(part.conversation_id, [item_id], until=part.until):
        if isinstance(recorded.event, ItemAppended):
            return recorded
    return None
