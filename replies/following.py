"""Follows a reply from any process: its live events in Redis, then its record in the log."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import psycopg
import structlog
from msgspec import Struct
from redis.exceptions import RedisError

from domain.errors import NotFound, ResponseNotFound
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.conversation_watch import Change, ConversationWatch
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import as_api_error
from infrastructure.http.stream_pages import Page, StreamPages, StreamPosition
from replies import stream_events
from replies.live_reader import LiveReader, MissingEntries
from replies.record import Reader, Record, refreshed
from replies.recorded_stream import RecordedKey, RecordedStream

FIRST_PAUSE_SECONDS = 0.02
MAX_PAUSE_SECONDS = 0.25
RETRY_SECONDS = 1.0
"""The wait after Redis or the log failed."""

log = structlog.get_logger(__name__)

ReadRecord = Callable[[], Awaitable[Record]]


class _Client(Struct):
    """A client that follows a reply.

    `head`: the conversation's head that was last read. If `head` is None, the record must be read again. `recorded`:
    the key of the recorded stream; None until the reply's end was read.
    """

    conversation_id: str
    response_id: str
    principal: Principal
    read: ReadRecord
    head: Head | None
    position: StreamPosition
    recorded: RecordedKey | None = None
    finished: bool = False

    async def read_stream(self) -> RecordedStream:
        return RecordedStream(await self.read())

    def update_head(self, head: Head | None) -> None:
        """Raises ResponseNotFound if the client may no longer read the conversation."""
        if head is None or head.deleted or head.role(self.principal) is None:
            raise ResponseNotFound(self.response_id)
        self.head = head

    def next_slice(self, page: Page) -> bytes:
        chunk = self.position.next_slice(page)
        self.finished = page.ends and self.position.after == page.last and self.position.offset == 0
        return chunk


class ReplyStreams:
    """Streams replies to clients. The streams share reads, and hold no connection while they wait."""

    def __init__(
        self, live: LiveReader, watch: ConversationWatch, pages: StreamPages, shutdown: threading.Event
    ) -> None:
        self._live = live
        self._watch = watch
        self._pages = pages
        self._shutdown = shutdown

    async def follow(
        self, record: Record, read: ReadRecord, after: int, principal: Principal
    ) -> AsyncGenerator[bytes, None]:
        """The events after number `after`, until the reply ends or the process stops.

        `read` reads the record again. Clients share reads, so `read` must not depend on the principal. If the reply or
        a part of it is deleted, or the principal may no longer read it, an `error` event ends the stream. In the middle
        of an event, the stream ends without an `error` event.
        """
        client = _Client(
            record.conversation_id, record.response_id, principal, read, record.head, StreamPosition(after)
        )
        if record.end is not None:
            self._use(client, RecordedStream(record))
        del record  # it may be large, and there may be many clients
        try:
            while not (client.finished or self._shutdown.is_set()):
                events = self._live_events(client) if client.recorded is None else self._recorded_events(client)
                async with aclosing(events):
                    async for chunk in events:
                        yield chunk
                if client.recorded is not None:
                    return
                if not client.finished and await self._has_ended(client) and client.position.offset:
                    return  # Redis lost an event that was sent in part. The client resumes after the last whole event.
        except NotFound as error:
            if client.position.offset == 0:
                yield _error_event(error, client.position.after)

    async def _live_events(self, client: _Client) -> AsyncGenerator[bytes, None]:
        """The events that Redis has, until the conversation changes. Then the record may have the reply's end."""
        with (
            self._live.follow(client.response_id) as live,
            self._watch.change(client.conversation_id, client.head) as change,
        ):
            # An event that was sent in part is finished first.
            while not (client.finished or self._shutdown.is_set() or (change.done() and client.position.offset == 0)):
                _note_change(client, change)
                waiting: set[asyncio.Future[None] | asyncio.Future[Head | None]] = {live.changed, change}
                seconds: float | None = None
                try:
                    page = await self._live.page(client.response_id, client.position.after)
                except (MissingEntries, RedisError, OSError) as error:
                    log.debug("live_events_lost", response_id=client.response_id, error_type=type(error).__name__)
                    page, waiting, seconds = None, {change}, RETRY_SECONDS
                if page is not None and page.ends and client.position.offset == 0 and await self._end_is_lost(client):
                    page, waiting, seconds = None, {change}, RETRY_SECONDS
                if page is not None:
                    chunk = client.next_slice(page)
                    del page
                    if chunk:
                        yield chunk
                    continue
                if change.done():
                    break
                await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            _note_change(client, change)

    async def _end_is_lost(self, client: _Client) -> bool:
        """Whether the log has lost the reply's end, which Redis has.

        The end is written to the log before it is written to Redis. If the log still has the end, the conversation's
        version is higher than in `client.head`.
        """
        if client.head is None:
            return False
        try:
            head = await self._watch.head(client.conversation_id)
        except (psycopg.Error, LogBusy):
            return False
        return head is None or head.version <= client.head.version

    async def _recorded_events(self, client: _Client) -> AsyncGenerator[bytes, None]:
        """Raises NotFound if a part was deleted, or if the client may no longer read the reply."""

        async def read_page() -> Page:
            stream = await self._pages.get(client.recorded, client.read_stream)
            if client.position.offset and stream.key != client.recorded:
                raise ResponseNotFound(client.response_id)  # an event that was sent in part may have changed
            return stream.page(client.position.after)

        while not (client.finished or self._shutdown.is_set()):
            with self._watch.change(client.conversation_id, client.head) as change:
                while not (client.finished or self._shutdown.is_set() or change.done()):
                    try:
                        page = await self._pages.get((client.recorded, client.position.after), read_page)
                    except (psycopg.OperationalError, LogBusy):
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    chunk = client.next_slice(page)
                    del page
                    await asyncio.sleep(0)  # each page keeps the event loop busy, so other clients are served first
                    if chunk:
                        yield chunk
                if change.done() and not (client.finished or change.cancelled()):
                    client.update_head(change.result())
                    await self._check_still_there(client)

    async def _check_still_there(self, client: _Client) -> None:
        """Raises NotFound if the reply or a part of it was deleted. Uses the changed stream if only the metadata
        changed.
        """
        key = ("reply", client.response_id, client.head)
        with suppress(psycopg.OperationalError, LogBusy):
            stream = await self._pages.get(key, client.read_stream)
            if client.recorded is None or not stream.key.differs_at_most_in_metadata(client.recorded):
                raise ResponseNotFound(client.response_id)
            if client.position.offset == 0:
                self._use(client, stream)

    async def _has_ended(self, client: _Client) -> bool:
        """Raises NotFound."""
        try:
            stream = await self._pages.get(("reply", client.response_id, client.head), client.read_stream)
        except (psycopg.OperationalError, LogBusy):
            client.head = None
            return False
        client.update_head(stream.head)
        if stream.has_ended:
            self._use(client, stream)
        return stream.has_ended

    def _use(self, client: _Client, stream: RecordedStream) -> None:
        client.recorded = stream.key
        self._pages.keep(stream.key, stream)


def _note_change(client: _Client, change: Change) -> None:
    if change.done() and not change.cancelled():
        client.update_head(change.result())


async def until_ended(reader: Reader, record: Record, seconds: float) -> Record:
    """The record once the reply has ended, or after `seconds`. Raises ResponseNotFound and the errors of `reader`."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while record.end is None and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
        record = await refreshed(reader, record)
    return record


def _error_event(error: NotFound, after: int) -> bytes:
    """The event has the number of the last event that was sent, or 0."""
    return stream_events.encode(stream_events.failed(as_api_error(error)), max(0, after))
