"""A conversation's events as a stream of server-sent events. `events.py` serves it.

Format: WHATWG HTML, "Server-sent events". A stream reads the next page only when its client has taken the one before, and holds no database
connection while it waits. All streams of a process share one look-up of what has changed (ConversationWatch), and the few
connections of their own LogAccess. A stream ends when its client disconnects, after the conversation's deletion, and when the log has lost
events that were sent.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from domain.events import ConversationDeleted
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.stream_pages import PAGE_BYTES, Page, StreamPages, StreamPosition
from queries.log_access import LogAccess, PostgresUnavailable

HEARTBEAT_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 1.0
"""The pause after a read that failed because Postgres was unavailable. The stream must not end then: clients do not reconnect after a 503."""

PAGE_EVENTS: Final = 100
STILL_HERE: Final = b": still here\n\n"

Render = Callable[[Recorded], bytes]


class EventStreams:
    """The streams of events of this process. `log` is for them alone: however many they are, other reads have connections."""

    def __init__(
        self, log: LogAccess, watch: ConversationWatch, pages: StreamPages, render: Render, shutdown: threading.Event
    ) -> None:
        self._log = log
        self._watch = watch
        self._pages = pages
        self._render = render
        self._shutdown = shutdown

    async def follow(
        self, conversation_id: str, head: Head, after: int, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> AsyncIterator[bytes]:
        """Yields every event with a version above `after`, until the conversation is deleted or the process stops.

        `head`: the conversation's end, looked up before. After each `heartbeat_seconds` without an event, yields a comment.
        """
        position, sent_at = StreamPosition(after), time.monotonic()
        end: Head | None = head
        while not self._shutdown.is_set() and end is not None and position.after <= end.version:
            if position.after < end.version:
                page = await self._read_page(conversation_id, position.after)
                if page is not None:
                    if page.last == position.after:
                        return  # the log has lost events that this stream has heard of
                    chunk, ends = position.take(page), page.ends and position.after == page.last
                    del page
                    if chunk:
                        yield chunk
                    if ends:
                        return
                    sent_at = time.monotonic()
                    continue
                await asyncio.sleep(RETRY_SECONDS)
            else:
                end = await self._wait_for_change(conversation_id, end, sent_at + heartbeat_seconds - time.monotonic())
            if time.monotonic() - sent_at >= heartbeat_seconds and position.offset == 0:
                yield STILL_HERE
                sent_at = time.monotonic()

    async def _wait_for_change(self, conversation_id: str, head: Head, seconds: float) -> Head | None:
        """The conversation's end once it has changed; `head` after `seconds` and at the shutdown. None: the log no longer has the conversation."""
        with self._watch.change(conversation_id, head) as change:
            await asyncio.wait({change}, timeout=max(0.0, seconds))
            return change.result() if change.done() and not change.cancelled() else head

    async def _read_page(self, conversation_id: str, after: int) -> Page | None:
        """The events after version `after`, at least one if there is any; None while Postgres is unavailable."""

        async def read() -> Page:
            events = await self._log.conversation(conversation_id, after=after, limit=PAGE_EVENTS, max_bytes=PAGE_BYTES)
            return Page(
                last=events[-1].version if events else after,
                body=b"".join(_sse(recorded, self._render(recorded)) for recorded in events),
                ends=bool(events) and isinstance(events[-1].event, ConversationDeleted),
            )

        try:
            return await self._pages.get(("events", conversation_id, after), read)
        except (PostgresUnavailable, LogBusy):
            return None


def _sse(recorded: Recorded, body: bytes) -> bytes:
    # In JSON a line break can only be between tokens, where a space means the same.
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return f"id: {recorded.version}\nevent: {recorded.event.topic}\ndata: ".encode() + line + b"\n\n"
