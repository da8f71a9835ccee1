"""A conversation's events as a stream of server-sent events. `events.py` serves it.

Format: WHATWG HTML, "Server-sent events". A stream reads the next page only when its client has taken the one before, and holds no database
connection while it waits. All streams of a process share one look-up of what has changed (ConversationWatch), and one LogAccess, which
has a few connections for them alone. A stream ends when its client disconnects, after the conversation's deletion, at the shutdown, and
when the log has lost events that were sent.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

from msgspec.structs import replace

from domain.events import ConversationDeleted
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.incarnation import LogCheck, LogPosition
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.event_streams import on_one_line
from infrastructure.http.stream_pages import PAGE_BYTES, Page, StreamPages, StreamPosition
from queries.log_access import LogAccess, PostgresUnavailable
from queries.principal_log import PrincipalLog

RETRY_SECONDS: Final = 1.0
"""The pause after a read that failed because Postgres was unavailable.

The stream must not end then: its client would reconnect, get a 503, and not try again.
"""

PAGE_EVENTS: Final = 100

Render = Callable[[Recorded], bytes]


class _EventPage(Page, frozen=True):
    """`end`: where its last event is in the log."""

    end: LogPosition = LogPosition()


class EventStreams:
    """The streams of events of this process. `log` is for them alone: however many there are, other reads still get connections."""

    def __init__(
        self, log: LogAccess, watch: ConversationWatch, pages: StreamPages, render: Render, shutdown: threading.Event
    ) -> None:
        self._log = log
        self._watch = watch
        self._pages = pages
        self._render = render
        self._shutdown = shutdown

    async def follow(self, log: PrincipalLog, conversation_id: str, head: Head, after: int) -> AsyncIterator[bytes]:
        """Yields every event with a version above `after`, until the conversation is deleted or the process stops.

        `log`: the client's. `head`: the conversation's end, looked up before.
        """
        position, sent = StreamPosition(after), _log_position(head, after)
        end: Head | None = head
        while not self._shutdown.is_set() and end is not None:
            page: _EventPage | None = None
            try:
                if end.incarnation != sent.incarnation:  # the log may have moved back
                    check = await self._log.check([sent.position])
                    if position.offset or not _has(check, sent):
                        return
                    sent = replace(sent, incarnation=check.incarnation)
                    end = await log.head(conversation_id)
                elif position.after > end.version:  # the last page had events that are newer than `end`
                    end = await log.head(conversation_id)
                elif position.after == end.version:
                    end = await self._wait_for_change(conversation_id, end)
                else:
                    page = await self._page(log, conversation_id, position.after, end.incarnation)
                    if page.body and page.end.incarnation != end.incarnation:
                        end, page = replace(end, incarnation=page.end.incarnation), None
            except (PostgresUnavailable, LogBusy):
                await asyncio.sleep(RETRY_SECONDS)
            if page is not None and not page.body:
                return  # the log has lost events: `end` is newer than what it has
            if page is not None:
                chunk = position.take(page)
                if position.after == page.last:
                    sent = page.end
                ends, page = page.ends and position.after == page.last, None
                if chunk:
                    yield chunk
                if ends:
                    return

    async def _wait_for_change(self, conversation_id: str, head: Head) -> Head | None:
        """The conversation's end once it has changed; `head` at the shutdown. None: the log no longer has the conversation."""
        with self._watch.change(conversation_id, head) as change:
            await asyncio.wait({change})
            return head if change.cancelled() else change.result()

    async def _page(self, log: PrincipalLog, conversation_id: str, after: int, incarnation: str) -> _EventPage:
        """The events after version `after`. Its body is empty if there are none."""

        async def read() -> _EventPage:
            events = await log.conversation(conversation_id, after=after, limit=PAGE_EVENTS, max_bytes=PAGE_BYTES)
            if not events:
                return _EventPage(after, b"")
            body = b"".join(_sse(recorded, self._render(recorded)) for recorded in events)
            newest = events[-1]
            is_last = isinstance(newest.event, ConversationDeleted)
            return _EventPage(newest.version, body, ends=is_last, end=newest.log_position)

        return await self._pages.get(("events", conversation_id, after, incarnation), read)


def _log_position(head: Head, version: int) -> LogPosition:
    """Where a version of the conversation is in the log. For a version before `head`, position and hash are not known (-1 and empty)."""
    if version == head.version:
        return LogPosition(head.position, head.chain_hash, head.incarnation)
    return LogPosition(0 if version == 0 else -1, "", head.incarnation)


def _has(check: LogCheck, sent: LogPosition) -> bool:
    """Whether the log still has the event at this position. Its chain hash covers all earlier events of its conversation too."""
    return sent.position == 0 or check.chain_hashes.get(sent.position, "unknown") == sent.chain_hash


def _sse(recorded: Recorded, body: bytes) -> bytes:
    # In JSON a line break can only be between tokens, where a space means the same.
    line = on_one_line(body.replace(b"\r", b" ").replace(b"\n", b" "))
    return f"id: {recorded.version}\nevent: {recorded.event.topic}\ndata: ".encode() + line + b"\n\n"
