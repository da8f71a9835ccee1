"""Reads a path backwards from the log, from its last item to its first. The path of a fork goes on in the origin.

Deleted items are left out.
"""

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import fork_of
from context.segment_pages import SegmentPage, segment_pages
from context.selection import DELETED
from domain.events import ConversationStarted, Fork, ItemAppended, LeftOut, SentSequence
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded

PAGE_EVENTS = 200
"""Events read at a time."""


class PathPage(Struct, frozen=True, kw_only=True):
    """Some items of a path, newest first, without deleted ones.

    before_gap    ids of items whose next newer item on the path was looked up, and is deleted
    requests      (model, sequence) of each request that was made on the path, newest first
    is_inherited  whether the items come from the origin of a fork
    lost          the items that a deleted conversation had on the path; None if the page's conversation is not deleted
    """

    items: list[ItemAppended] = []
    before_gap: set[str] = set()
    requests: Sequence[tuple[str, SentSequence]] = ()
    is_inherited: bool = False
    lost: LeftOut | None = None


async def path_backwards(
    reader: Reader,
    end: PathSegment,
    *,
    is_past: bool = False,
    first_page: Sequence[Recorded] | None = None,
) -> AsyncIterator[PathPage]:
    """The items of the path that ends with the segment `end`, newest first, in pages.

    After the first item of a fork come the items of its origin. `is_past`: the conversation may have later events than
    `end`. They may have retracted items of the path, so deletions are looked up. `first_page`: the page that ends at
    the version of `end`, if it was read already.
    """
    segment: PathSegment | None = end
    last_id: str | None = None
    gap = False
    conversations: list[str] = []
    while segment is not None:
        fork: Fork | None = None
        is_inherited = segment is not end
        conversations.append(segment.conversation_id)
        head = await reader.head(segment.conversation_id) if is_past or is_inherited else None
        if head is not None and head.deleted:
            fork = await fork_of(reader, segment.conversation_id)
            gap = True
            if (lost := _lost(segment, fork, last_id)) is not None:
                yield PathPage(is_inherited=is_inherited, lost=lost)
        else:
            # The fork may have retracted any of the items that it inherits.
            may_be_deleted = is_inherited or (head is not None and head.version > segment.version)
            oldest: Recorded | None = None
            async for page in segment_pages(reader, segment, PAGE_EVENTS, first_page=first_page or ()):
                oldest = page.events[-1]
                items, before_gap, gap = await _undeleted(
                    reader, page, gap, conversations, may_be_deleted=may_be_deleted
                )
                requests = [(request.model, request.sequence) for request in page.requests]
                yield PathPage(items=items, before_gap=before_gap, requests=requests, is_inherited=is_inherited)
            fork = await _origin(reader, segment, oldest)
        first_page = None
        last_id = fork.item_id if fork else None
        segment = segment.origin(fork) if fork else None


async def _undeleted(
    reader: Reader, page: SegmentPage, gap: bool, conversations: Sequence[str], *, may_be_deleted: bool
) -> tuple[list[ItemAppended], set[str], bool]:
    """Returns (the page's items that are not deleted, `before_gap` of PathPage, `gap` for the next page).

    `gap`: whether the item of the path that is just newer than this page is deleted.
    `conversations`: those of the path, from its end up to this page. `may_be_deleted`: any of the items may have been retracted, because
    a conversation of the path has events that were not read. If False, the only items that can be deleted are copies whose original was
    deleted.
    """
    appended = [event for event in page.appended if may_be_deleted or event.item_id not in page.retracted]
    looked_up = {event.item_id: event.copy_of for event in appended if may_be_deleted or event.copy_of is not None}
    deleted = await deleted_items(reader, looked_up, conversations)
    items: list[ItemAppended] = []
    before_gap: set[str] = set()
    for event in appended:
        if event.item_id in deleted:
            gap = True
            continue
        if gap:
            before_gap.add(event.item_id)
        items.append(event)
        gap = False
    return items, before_gap, gap


async def _origin(reader: Reader, segment: PathSegment, oldest: Recorded | None) -> Fork | None:
    """What the segment's conversation was forked from. None if it is no fork. `oldest`: the oldest event that was read."""
    if oldest is not None and isinstance(oldest.event, ConversationStarted):
        return oldest.event.forked_from
    return await fork_of(reader, segment.conversation_id)


def _lost(segment: PathSegment, fork: Fork | None, last_id: str | None) -> LeftOut | None:
    """The items that the path had in a deleted conversation; None if it had none there.

    `fork`: what that conversation was forked from. `last_id`: its last item on the path.
    """
    count = (segment.last_depth or 0) - (fork.depth if fork else 0)
    return LeftOut(reason=DELETED, last=last_id, count=count) if count > 0 else None
