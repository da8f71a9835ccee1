"""A conversation's events as a stream of server-sent events.

Format: WHATWG HTML, "Server-sent events". A stream reads the next page only when its client has taken the previous
page, and holds no database connection while it waits.

Deletions and withdrawn shares must take effect soon, even for a client that reads slowly. So the conversation's last
event is looked up again after LOOK_UP_SECONDS, and a page is made again after MAX_PAGE_SECONDS.
"""

import asyncio
import threading
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ConversationNotFound
from domain.events import ConversationDeleted
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.incarnation import LogCheck, LogPosition
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.event_streams import error_event, on_one_line
from infrastructure.http.stream_pages import PAGE_BYTES, SLICE_BYTES, Page, StreamPages, StreamPosition
from queries.log_access import LogAccess, PostgresUnavailable
from queries.principal_log import PrincipalLog

RETRY_SECONDS: Final = 1.0
"""The pause after a read that failed because Postgres was unavailable or busy.

The stream goes on, because a client that reconnects would get a 503 and not try again.
"""

LOOK_UP_SECONDS: Final = 1.0
MAX_PAGE_SECONDS: Final = 2.0
PAGE_EVENTS: Final = 100

Render = Callable[[PrincipalLog, Sequence[Recorded], bool], Awaitable[list[bytes]]]
"""(log, events of one conversation, whether the client sees deleted content) -> each event as JSON."""


class _EventPage(Page, frozen=True):
    """A page of encoded events.

    `event_ends`: where each event ends in `body`. `end`: where the page's last event is in the log.
    """

    event_ends: tuple[int, ...] = ()
    end: LogPosition = LogPosition()

    def slice_end(self, start: int) -> int:
        """The slice ends where an event ends, if an event ends within SLICE_BYTES."""
        at_most = start + SLICE_BYTES
        whole_events = bisect_right(self.event_ends, at_most)
        end = self.event_ends[whole_events - 1] if whole_events else 0
        return end if end > start else at_most


class _PageKey(Struct, frozen=True):
    """Streams that need the same page share it. `period`: a new period begins every MAX_PAGE_SECONDS."""

    conversation_id: str
    after: int
    until: int
    incarnation: str
    sees_deleted: bool
    period: int


class _PartlySentPage(Struct, frozen=True):
    key: _PageKey
    body_hash: int


class _Client(Struct):
    """The state of one client's stream.

    `head`: the conversation's last event at the last look-up, which was at `looked_up_at`
    `position`: how much was sent. `position.after` is the last version before the page that is being sent
    `sent_position`: the log position of the last event before the page that is being sent
    `page`: the page that is being sent; None between pages
    `in_event`: whether the last slice ended inside an event
    """

    log: PrincipalLog
    conversation_id: str
    head: Head
    looked_up_at: float
    position: StreamPosition
    sent_position: LogPosition
    last_complete_version: int
    page: _PartlySentPage | None = None
    in_event: bool = False
    finished: bool = False

    def update_head(self, head: Head | None) -> None:
        """`head` None: the log lost the conversation. Raises ConversationNotFound if the client may not read it any more."""
        if head is None:
            self.finished = True
        elif head.role(self.log.principal) is None:
            raise ConversationNotFound(self.conversation_id)
        else:
            self.head = head
            self.looked_up_at = time.monotonic()

    def is_due(self, seconds: float) -> bool:
        return time.monotonic() - self.looked_up_at > seconds

    def restart(self) -> None:
        """Makes the next page begin after the last event that was sent in full."""
        if self.position.offset:
            self.position = StreamPosition(self.last_complete_version)
            self.sent_position = LogPosition(-1, "", self.sent_position.incarnation)
        self.page = None

    def next_page_key(self, period: int) -> _PageKey:
        return _PageKey(
            self.conversation_id,
            self.position.after,
            self.head.version,
            self.head.incarnation,
            self.log.principal.may("audit"),
            period,
        )

    def next_slice(self, key: _PageKey, page: _EventPage) -> bytes:
        start = self.position.after
        chunk = self.position.next_slice(page)
        is_sent = self.position.after == page.last
        whole_events = bisect_right(page.event_ends, self.position.offset)
        self.last_complete_version = page.last if is_sent else start + whole_events
        self.in_event = not is_sent and self.position.offset not in page.event_ends
        self.page = None if is_sent else _PartlySentPage(key, hash(page.body))
        if is_sent:
            self.sent_position = page.end
            self.finished = page.ends
        return chunk


class EventStreams:
    """The streams of this process. `log`: the log with connections that only streams use."""

    def __init__(
        self,
        log: LogAccess,
        watch: ConversationWatch,
        pages: StreamPages,
        render: Render,
        shutdown: threading.Event,
        *,
        look_up_seconds: float = LOOK_UP_SECONDS,
        max_page_seconds: float = MAX_PAGE_SECONDS,
    ) -> None:
        self._log = log
        self._watch = watch
        self._pages = pages
        self._render = render
        self._shutdown = shutdown
        self._look_up_seconds = look_up_seconds
        self._max_page_seconds = max_page_seconds

    async def follow(
        self, log: PrincipalLog, conversation_id: str, head: Head, after: int
    ) -> AsyncGenerator[bytes, None]:
        """Yields the events with a version above `after`, in slices, until the stream ends.

        `head` comes from an earlier look-up that checked access.
        """
        client = _Client(
            log, conversation_id, head, time.monotonic(), StreamPosition(after), _log_position(head, after), after
        )
        while not (client.finished or self._shutdown.is_set()):
            try:
                chunk = await self._next(client)
            except (PostgresUnavailable, LogBusy):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ConversationNotFound as error:
                if not client.in_event:
                    yield error_event(error)
                return
            if chunk is None:
                return
            if chunk:
                yield chunk

    async def _next(self, client: _Client) -> bytes | None:
        """The next slice: empty if there is nothing to send yet, None if the stream ends.

        Raises ConversationNotFound, PostgresUnavailable and LogBusy.
        """
        if client.head.incarnation != client.sent_position.incarnation:  # the log may have moved back
            check = await self._log.check([client.sent_position.position])
            if client.position.offset or not _has(check, client.sent_position):
                return None
            client.sent_position = replace(client.sent_position, incarnation=check.incarnation)
            client.update_head(await client.log.head(client.conversation_id))
        elif client.position.after == client.head.version:
            await self._wait_for_change(client)
        else:
            if client.position.after > client.head.version or client.is_due(self._look_up_seconds):
                client.update_head(await client.log.head(client.conversation_id))
            is_readable = client.head.incarnation == client.sent_position.incarnation and not client.finished
            if is_readable and client.position.after < client.head.version:
                return await self._next_slice(client)
        return b""

    async def _wait_for_change(self, client: _Client) -> None:
        with self._watch.change(client.conversation_id, client.head) as change:
            await asyncio.wait({change})
            if not change.cancelled():
                client.update_head(change.result())

    async def _next_slice(self, client: _Client) -> bytes | None:
        """Like `_next`, it may return an empty slice or None."""
        period = int(time.monotonic() // self._max_page_seconds)
        begun = client.page
        key = client.next_page_key(period) if begun is None else replace(begun.key, period=period)
        page = await self._page(key, client.log)
        if not page.body:
            return None  # the log has lost events
        if page.end.incarnation != key.incarnation:
            client.head = replace(client.head, incarnation=page.end.incarnation)
            return b""
        if begun is not None and begun.body_hash != hash(page.body):  # a part of the page was deleted meanwhile
            if client.in_event:
                return None  # the client will resume after the last event that it got in full
            client.restart()
            return b""
        return client.next_slice(key, page)

    async def _page(self, key: _PageKey, log: PrincipalLog) -> _EventPage:
        async def read() -> _EventPage:
            events = await log.conversation(
                key.conversation_id, after=key.after, until=key.until, limit=PAGE_EVENTS, max_bytes=PAGE_BYTES
            )
            if not events:
                return _EventPage(key.after, b"")
            bodies = await self._render(log, events, key.sees_deleted)
            encoded = [_sse(recorded, body) for recorded, body in zip(events, bodies, strict=True)]
            newest = events[-1]
            is_last = isinstance(newest.event, ConversationDeleted)
            ends = tuple(accumulate(map(len, encoded)))
            return _EventPage(newest.version, b"".join(encoded), ends=is_last, event_ends=ends, end=newest.log_position)

        return await self._pages.get(key, read)


def _log_position(head: Head, version: int) -> LogPosition:
    """Where the version is in the log. The position is known for version 0 and the head's version. Else it is -1."""
    if version == head.version:
        return LogPosition(head.position, head.chain_hash, head.incarnation)
    return LogPosition(0 if version == 0 else -1, "", head.incarnation)


def _has(check: LogCheck, sent: LogPosition) -> bool:
    """False if the position is not known. The hash covers all earlier events of the conversation."""
    return sent.position == 0 or check.chain_hashes.get(sent.position, "unknown") == sent.chain_hash


def _sse(recorded: Recorded, body: bytes) -> bytes:
    # In JSON a line break can only be between tokens, where a space means the same.
    line = on_one_line(body.replace(b"\r", b" ").replace(b"\n", b" "))
    return f"id: {recorded.version}\nevent: {recorded.event.topic}\ndata: ".encode() + line + b"\n\n"
