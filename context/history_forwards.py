"""Reads a path forwards from the log. For a fork, the origin comes first."""

from collections.abc import AsyncIterator, Sequence

from context.conversation_settings import Reader, retracted_at
from context.deleted_content import deleted_items
from context.forks import read_path
from context.path_backwards import PAGE_EVENTS
from domain.events import ItemAppended
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded


async def path(
    reader: Reader,
    end: PathSegment,
    *,
    after: str | None = None,
    first: str | None = None,
    recorded_at: int | None = None,
) -> AsyncIterator[ItemAppended]:
    """The items of the path, oldest first.

    `first`: only this item and the items after it. `after`: only the items after this one. `recorded_at`: the log
    position of a request. With `recorded_at`, a deletion counts only up to the version of its conversation's segment. Without `recorded_at`,
    items that are deleted now are left out.
    """
    segments = [*(await read_path(reader, end)).segments]
    row: Recorded | None = None
    if (item_id := first or after) is not None:
        while segments and (row := await _appended(reader, segments[0], item_id)) is None:
            segments.pop(0)
    for index, segment in enumerate(segments):
        after_version = 0
        if row is not None:
            after_version, row = row.version - (first is not None), None
        forks = segments[index + 1 :]
        if recorded_at is None:
            events = _items(reader, segment, after_version, forks)
        else:
            events = _recorded_items(reader, segment, after_version, forks, recorded_at)
        async for event in events:
            yield event


async def _items(
    reader: Reader, segment: PathSegment, after_version: int, forks: Sequence[PathSegment]
) -> AsyncIterator[ItemAppended]:
    inherited_by = [fork.conversation_id for fork in (segment, *forks)]
    head = await reader.head(segment.conversation_id)
    if head is None or head.deleted:
        return
    async for page in _pages(reader, segment, after_version):
        appended = _on_path(segment, page)
        deleted = await deleted_items(reader, {event.item_id: event.copy_of for event in appended}, inherited_by)
        for event in appended:
            if event.item_id not in deleted:
                yield event


async def _recorded_items(
    reader: Reader, segment: PathSegment, after_version: int, forks: Sequence[PathSegment], position: int
) -> AsyncIterator[ItemAppended]:
    """An item restored before log position `position` is not left out."""
    async for page in _pages(reader, segment, after_version):
        appended = _on_path(segment, page)
        retracted: set[str] = set()
        for each in (segment, *forks):
            retracted |= await retracted_at(reader, each, [event.item_id for event in appended], position)
        for event in appended:
            if event.item_id not in retracted:
                yield event


async def _pages(reader: Reader, segment: PathSegment, after_version: int) -> AsyncIterator[list[Recorded]]:
    while (first := segment.oldest_version(after_version)) is not None:
        page = await reader.conversation(
            segment.conversation_id, after=first - 1, until=segment.version, limit=PAGE_EVENTS
        )
        if not page:
            return
        yield page
        after_version = page[-1].version


def _on_path(segment: PathSegment, page: list[Recorded]) -> list[ItemAppended]:
    return [
        event
        for recorded in page
        if isinstance(event := recorded.event, ItemAppended)
        and segment.contains(event.branch, event.depth, recorded.version)
    ]


async def _appended(reader: Reader, segment: PathSegment, item_id: str) -> Recorded | None:
    for recorded in await reader.items(segment.conversation_id, [item_id], until=segment.version):
        if isinstance(recorded.event, ItemAppended):
            return recorded
    return None
