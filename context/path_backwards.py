"""Reads a path backwards from the log, from its last item to its first. The path of a fork goes on in the origin.

Deleted items are left out.
"""

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import fork_of
from context.last_requests import sent_request
from context.selection import DELETED
from domain.events import ConversationStarted, Fork, ItemAppended, ItemRestored, ItemRetracted, LeftOut, SentSequence
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded

PAGE_EVENTS = 200
"""Events read at a time."""


class PathPage(Struct, frozen=True, kw_only=True):
    """Some items of a path, newest first, without deleted ones.

    before_gap    ids of items whose next newer item on the path is deleted, and was read
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
            async for page in _pages(reader, segment, first_page, with_retracted=may_be_deleted):
                fork = _origin(page)
                items, before_gap, gap = await _undeleted(
                    reader, page, gap, conversations, may_be_deleted=may_be_deleted
                )
                yield PathPage(items=items, before_gap=before_gap, requests=page.requests, is_inherited=is_inherited)
        first_page = None
        last_id = fork.item_id if fork else None
        segment = segment.origin(fork) if fork else None


class _Page(Struct, frozen=True):
    """A page of one conversation, newest first. `appended`: its items on the path. Those that were retracted up to the segment's
    version may be left out.

    `requests`: as in PathPage.
    """

    events: Sequence[Recorded]
    appended: list[ItemAppended]
    requests: list[tuple[str, SentSequence]]


async def _pages(
    reader: Reader, segment: PathSegment, first_page: Sequence[Recorded] | None, *, with_retracted: bool
) -> AsyncIterator[_Page]:
    """The segment's pages, newest first. `with_retracted`: their items are looked up, because retracted ones may have been restored later."""
    retracted: dict[str, bool] = {}
    """By item id, whether its newest change is a retraction."""
    # The path may leave the conversation at an item. Then the requests after this item were not made on the path.
    is_on_path = segment.last_depth is None
    until = segment.version
    while until > 0:
        events = first_page or await reader.conversation_backwards(
            segment.conversation_id, until=until, limit=PAGE_EVENTS
        )
        first_page = None
        if not events:
            return
        appended: list[ItemAppended] = []
        requests: list[tuple[str, SentSequence]] = []
        for recorded in events:
            match event := recorded.event:
                case ItemRetracted() | ItemRestored():
                    retracted.setdefault(event.item_id, isinstance(event, ItemRetracted))
                case ItemAppended() if segment.contains(event.branch, event.depth, recorded.version):
                    is_on_path = True
                    if with_retracted or not retracted.get(event.item_id):
                        appended.append(event)
                case _:
                    if is_on_path and (request := sent_request(event)) is not None:
                        requests.append(request)
        yield _Page(events, appended, requests)
        until = events[-1].version - 1


async def _undeleted(
    reader: Reader, page: _Page, gap: bool, conversations: Sequence[str], *, may_be_deleted: bool
) -> tuple[list[ItemAppended], set[str], bool]:
    """Returns (the page's items that are not deleted, `before_gap` of PathPage, `gap` for the next page).

    `gap`: whether the item of the path that is just newer than this page is deleted.
    `conversations`: those of the path, from its end up to this page. `may_be_deleted`: any of the items may have been retracted, because
    a conversation of the path has events that were not read. If not, the only items that can be deleted are copies whose original was
    deleted.
    """
    looked_up = {event.item_id: event.copy_of for event in page.appended if may_be_deleted or event.copy_of is not None}
    deleted = await deleted_items(reader, looked_up, conversations)
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
    """What the conversation was forked from. None if it is no fork, or if its first event is not on this page."""
    first = page.events[-1].event if page.events else None
    return first.forked_from if isinstance(first, ConversationStarted) else None


def _lost(segment: PathSegment, fork: Fork | None, last_id: str | None) -> LeftOut | None:
    """The items that the path had in a deleted conversation; None if it had none there.

    `fork`: what that conversation was forked from. `last_id`: its last item on the path.
    """
    count = (segment.last_depth or 0) - (fork.depth if fork else 0)
    return LeftOut(reason=DELETED, last=last_id, count=count) if count > 0 else None
