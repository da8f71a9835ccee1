"""Reads one conversation's part of a path, page by page, newest events first.

Most events of other branches are skipped.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from context.deleted_content import deleted_items
from context.last_requests import opens_branch, sent_request
from domain.events import ItemAppended, ItemRestored, ItemRetracted, ReplyRequested, ReplyShown, SentSequence
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded


class Reader(Protocol):
    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` events with version <= `until`, newest first.

        A page may have fewer events. Only an empty page is the end.
        """

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event about one of these items or responses, with version <= `until`, ascending."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """As in `context/deleted_content.py`."""


class LoggedRequest(Struct, frozen=True):
    version: int
    model: str
    sequence: SentSequence


class SegmentPage(Struct, frozen=True):
    """Some events of a conversation, newest first.

    `appended`: the items of the path among these events. `retracted`: ids of `appended` items that are retracted at the
    segment's version. If events were skipped: ids of `appended` items that are deleted now. `requests`: the requests
    made on the path, or for responses in `opened_by`. `opened_by`: ids of the responses that opened branches of the path on this page.
    """

    events: Sequence[Recorded]
    appended: list[ItemAppended]
    retracted: frozenset[str]
    requests: list[LoggedRequest]
    opened_by: frozenset[str]


class PageMaker(Struct):
    """Makes the pages of a segment from its events, newest first."""

    segment: PathSegment
    _newest_changes: dict[str, bool] = {}
    _has_items: bool = False

    def page(self, events: Sequence[Recorded]) -> SegmentPage:
        """The next older page. `events`: newest first.

        `retracted` is right only if no events were skipped.
        """
        appended: list[ItemAppended] = []
        requests: list[LoggedRequest] = []
        opened_by: set[str] = set()
        for recorded in events:
            match event := recorded.event:
                case ItemRetracted() | ItemRestored():
                    self._newest_changes.setdefault(event.item_id, isinstance(event, ItemRetracted))
                case ItemAppended() if self.segment.contains(event.branch, event.depth, recorded.version):
                    self._has_items = True
                    appended.append(event)
                    if event.branch == recorded.version and event.response_id is not None:
                        opened_by.add(event.response_id)
                case ReplyRequested() | ReplyShown():
                    is_on_path = self._is_on_path(recorded.version) and not opens_branch(event)
                    if (is_on_path or event.response_id in opened_by) and (request := sent_request(event)) is not None:
                        requests.append(LoggedRequest(recorded.version, *request))
                case _:
                    pass
        retracted = frozenset(event.item_id for event in appended if self._newest_changes.get(event.item_id))
        return SegmentPage(events, appended, retracted, requests, frozenset(opened_by))

    def _is_on_path(self, version: int) -> bool:
        """A request newer than the path's last item counts if the path is open, or if it was made after `active_since`."""
        segment = self.segment
        if segment.newest_version(version) != version:
            return False
        return self._has_items or segment.last_depth is None or (segment.active_since or version) < version


async def segment_pages(
    reader: Reader, segment: PathSegment, limit: int, *, first_page: Sequence[Recorded] = ()
) -> AsyncIterator[SegmentPage]:
    """Yields the segment's pages, newest first.

    `first_page`: the newest events up to the segment's version, if they were read already.
    """
    maker = PageMaker(segment)
    read_from = segment.version + 1
    """All events from this version on were read, or skipped."""
    has_skipped = False
    while (until := segment.newest_version(read_from - 1)) > 0:
        if first_page and first_page[-1].version <= until:
            events, first_page = first_page, ()
        else:
            has_skipped |= until < read_from - 1
            events = await reader.conversation_backwards(segment.conversation_id, until=until, limit=limit)
        if not events:
            return
        page = maker.page(events)
        if page.opened_by:
            page = replace(page, requests=await _with_opening(reader, segment.conversation_id, page))
        if has_skipped:  # the skipped events may have retracted or restored items
            retracted = await deleted_items(reader, {event.item_id: None for event in page.appended})
            page = replace(page, retracted=retracted)
        yield page
        read_from = events[-1].version


async def _with_opening(reader: Reader, conversation_id: str, page: SegmentPage) -> list[LoggedRequest]:
    """Adds the requests for the responses in `opened_by`."""
    rows = await reader.items(conversation_id, list(page.opened_by))
    requests = {row.version: LoggedRequest(row.version, *sent) for row in rows if (sent := sent_request(row.event))}
    requests |= {request.version: request for request in page.requests}
    return [requests[version] for version in sorted(requests, reverse=True)]
