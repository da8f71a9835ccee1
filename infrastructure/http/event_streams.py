"""Answers a request with server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

While there are no events, comments are sent, because proxies and clients would drop a silent connection.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from infrastructure.access.refusals import InvalidCredential, NotPermitted
from infrastructure.http.door import check_admitted, may_be_refused, until_refused
from infrastructure.http.errors import as_api_error

EVENT_STREAM: Final = "text/event-stream"
COMMENT: Final = b": still here\n\n"
END_OF_EVENT: Final = b"\n\n"

_HEADERS: Final = {"x-accel-buffering": "no"}


def on_one_line(json_text: bytes) -> bytes:
    """Escapes the characters at which some clients wrongly end a line."""
    if json_text.isascii():
        return json_text
    return (
        json_text.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def error_event(error: Exception) -> bytes:
    """Says why a stream ends. This event has no id, so the client's `Last-Event-ID` does not change."""
    return b"event: error\ndata: " + on_one_line(msgspec.json.encode(as_api_error(error).body())) + END_OF_EVENT


def head_of_stream(headers: Mapping[str, str]) -> Response:
    """The answer to a HEAD request for a stream."""
    return Response(headers={**headers, **_HEADERS}, media_type=EVENT_STREAM)


class EventStream(StreamingResponse):
    """An answer with server-sent events. `events` yields encoded events in slices of any length.

    No comment and no `error` event is sent inside another event.
    """

    body_iterator: AsyncIterator[bytes]

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str], comment_seconds: float) -> None:
        super().__init__(events, headers={**headers, **_HEADERS}, media_type=EVENT_STREAM)
        self._comment_seconds = comment_seconds
        self._sent_at = time.monotonic()
        self._in_event = False
        self._sending = asyncio.Lock()
        self._connection: HTTPConnection | None = None
        """Set if the credential may be refused while the stream runs."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if may_be_refused(connection := HTTPConnection(scope)):
            self._connection = connection
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        comments = asyncio.create_task(self._send_comments(send))
        try:
            if self._connection is None:
                await self._send_events(send)
            else:
                await self._send_while_admitted(send, self._connection)
        finally:
            comments.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_while_admitted(self, send: Send, connection: HTTPConnection) -> None:
        sending = asyncio.create_task(self._send_events(send))
        refused = asyncio.create_task(until_refused(connection))
        try:
            await asyncio.wait({sending, refused}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_refused = refused.done()
            for task in (sending, refused):
                task.cancel()
            await asyncio.wait({sending, refused})
        try:
            (refused if is_refused else sending).result()
        except (InvalidCredential, NotPermitted) as error:
            if not self._in_event:
                await send({"type": "http.response.body", "body": error_event(error), "more_body": True})

    async def _send_events(self, send: Send) -> None:
        try:
            async for events in self.body_iterator:
                if self._connection is not None:
                    await check_admitted(self._connection)
                async with self._sending:
                    self._in_event = not events.endswith(END_OF_EVENT)
                    await send({"type": "http.response.body", "body": events, "more_body": True})
                    self._sent_at = time.monotonic()
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()

    async def _send_comments(self, send: Send) -> None:
        with suppress(OSError):  # the client has gone, which `stream_response` notices too
            while True:
                await asyncio.sleep(max(0.0, self._sent_at + self._comment_seconds - time.monotonic()))
                async with self._sending:  # waits for the end of a slice that is being sent
                    if time.monotonic() - self._sent_at < self._comment_seconds:
                        continue
                    if not self._in_event:
                        await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                    self._sent_at = time.monotonic()
