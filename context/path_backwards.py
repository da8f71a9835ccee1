"""Reads a path backwards from the log, from its last item through the fork into its origin. What is deleted by now is left out."""

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import fork_of
from context.selection import DELETED
from domain.events import ConversationStarted, Fork, ItemAppended, ItemRetracted, LeftOut
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded

PAGE_EVENTS = 200
"""Events read at a time."""


class PathPage(Struct, frozen=True, kw_only=True):
    """Some items of a path, newest first, without deleted ones. `is_inherited`: they come from the origin of a fork.

    `before_gap`: the ids of those that a deleted item follows, which the path still had when it was recorded. `lost`: a deleted conversation had these.
    """

    items: list[ItemAppended] = []
    before_gap: set[str] = set()
    is_inherited: bool = False
    lost: LeftOut | None = None


async def path_backwards(
    reader: Reader,
    end: PathSegment,
    *,
    is_past: bool = False,
    first_page: Sequence[Recorded] | None = None,
) -> AsyncIterator[PathPage]:
    """The items of the path whose newest segment is `end`, newest first, page by page, and on in a fork's origin. Without those deleted by now.

    `is_past`: the conversation may have gone on after `end`, so items may have been retracted later. `first_page`: the page that ends at the
    version of `end`, if it was read already.
    """
    segment: PathSegment | None = end
    last_id: str | None = None
    gap = False
    while segment is not None:
        fork: Fork | None = None
        is_inherited = segment is not end
        head = await reader.head(segment.conversation_id) if is_past or is_inherited else None
        if head is not None and head.deleted:
            fork = await fork_of(reader, segment.conversation_id)
            gap = True
            if (lost := _lost(segment, fork, last_id)) is not None:
                yield PathPage(is_inherited=is_inherited, lost=lost)
        else:
            went_on = head is not None and head.version > segment.version
            async for page in _pages(reader, segment, first_page):
                fork = _origin(page)
                items, before_gap, gap = await _undeleted(reader, page, gap, went_on=went_on)
                yield PathPage(items=items, before_gap=before_gap, is_inherited=is_inherited)
        first_page = None
        last_id = fork.item_id if fork else None
        segment = segment.origin(fork) if fork else None


class _Page(Struct, frozen=True):
    """The events of a page of one conversation, newest first, and those of them that are on the path and not retracted there."""

    events: Sequence[Recorded]
    appended: list[ItemAppended]


async def _pages(reader: Reader, segment: PathSegment, first_page: Sequence[Recorded] | None) -> AsyncIterator[_Page]:
    """The segment's pages, newest first."""
    retracted: set[str] = set()
    until = segment.version
    while until > 0:
        events = first_page or await reader.conversation_backwards(
            segment.conversation_id, until=until, limit=PAGE_EVENTS
        )
        first_page = None
        if not events:
            return
        appended: list[ItemAppended] = []
        for recorded in events:
            match event := recorded.event:
                case ItemRetracted():
                    retracted.add(event.item_id)
                case ItemAppended() if segment.contains(event.branch, event.depth, recorded.version):
                    if event.item_id not in retracted:
                        appended.append(event)
                case _:
                    pass
        yield _Page(events, appended)
        until = events[-1].version - 1


async def _undeleted(
    reader: Reader, page: _Page, gap: bool, *, went_on: bool
) -> tuple[list[ItemAppended], set[str], bool]:
    """The page's items without those that were deleted later or elsewhere; the ids of those that such an item follows; whether the last of them is such an item.

    `went_on`: the conversation has later events than the path, so items may have been retracted later.
    """
    in_question = {event.item_id: event.copy_of for event in page.appended if went_on or event.copy_of is not None}
    deleted = await deleted_items(reader, in_question)
    items: list[ItemAppended] = []
    before_gap: set[str] = set()
    for event in page.appended:
        if event.item_id in deleted:
            gap = True
            continue
        if gap:
            before_gap.add(event.item_id)
        items.append(event)
        gap = False
    return items, before_gap, gap


def _origin(page: _Page) -> Fork | None:
    """Where the conversation comes from, if the page has its first event."""
    first = page.events[-1].event if page.events else None
    return first.forked_from if isinstance(first, ConversationStarted) else None


def _lost(segment: PathSegment, fork: Fork | None, last_id: str | None) -> LeftOut | None:
    """What the path had of a deleted conversation; None if nothing. `fork`: where that conversation comes from. `last_id`: its last item on the path."""
    count = (segment.last_depth or 0) - (fork.depth if fork else 0)
    return LeftOut(reason=DELETED, last=last_id, count=count) if count > 0 else None
