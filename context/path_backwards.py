"""Reads a path backwards from the log. The path of a fork goes on in its origin. Deleted items are left out."""

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


class PathPage(Struct, frozen=True, kw_only=True):
    """Some items of a path, newest first.

    `before_gap`: ids of items whose next newer item was found deleted. `requests`: (model, sequence), newest first.
    `is_inherited`: whether the page is of a fork's origin. `lost`: the items that the path had in a deleted
    conversation.
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
    """The path's items, newest first.

    `is_past`: the conversation may have later events. These may have retracted items, so deletions are looked up.
    `first_page`: the page that ends at the version of `end`, if known.
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
            # The fork may have retracted any item that the fork inherits.
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
    """Returns (items, `before_gap`, `gap` for the next page).

    `gap`: whether the next newer item was found deleted. `conversations`: the conversations of the path, from
    the path's end to this page's conversation. `may_be_deleted`: if False, `page.retracted` is up to date, and only
    copies are looked up.
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
    if oldest is not None and isinstance(oldest.event, ConversationStarted):
        return oldest.event.forked_from
    return await fork_of(reader, segment.conversation_id)


def _lost(segment: PathSegment, fork: Fork | None, last_id: str | None) -> LeftOut | None:
    count = (segment.last_depth or 0) - (fork.depth if fork else 0)
    return LeftOut(reason=DELETED, last=last_id, count=count) if count > 0 else None
