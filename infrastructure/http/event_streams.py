"""How every stream of server-sent events is answered: its headers, and comments while it has no events. Proxies and clients drop silent connections.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Send

EVENT_STREAM: Final = "text/event-stream"
COMMENT: Final = b": still here\n\n"
END_OF_EVENT: Final = b"\n\n"

_HEADERS: Final = {"x-accel-buffering": "no"}


def on_one_line(json_text: bytes) -> bytes:
    """JSON text for a `data:` line. Escapes the characters at which some clients wrongly end a line: U+2028, U+2029 and U+0085."""
    if json_text.isascii():
        return json_text
    return (
        json_text.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def head_of_stream(headers: Mapping[str, str]) -> Response:
    """The answer to a HEAD request for a stream."""
    return Response(headers={**headers, **_HEADERS}, media_type=EVENT_STREAM)


class EventStream(StreamingResponse):
    """A stream of events. `events` yields them encoded, in slices of any length. A comment follows after each `comment_seconds` without a slice."""

    body_iterator: AsyncIterator[bytes]

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str], comment_seconds: float) -> None:
        super().__init__(events, headers={**headers, **_HEADERS}, media_type=EVENT_STREAM)
        self._comment_seconds = comment_seconds
        self._sent_at = time.monotonic()
        self._in_event = False
        self._sending = asyncio.Lock()

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        comments = asyncio.create_task(self._send_comments(send))
        try:
            async for events in self.body_iterator:
                async with self._sending:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
                    self._sent_at = time.monotonic()
                    self._in_event = not events.endswith(END_OF_EVENT)
        finally:
            comments.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_comments(self, send: Send) -> None:
        with suppress(OSError):  # the client has gone, which `stream_response` notices too
            while True:
                await asyncio.sleep(max(0.0, self._sent_at + self._comment_seconds - time.monotonic()))
                async with self._sending:  # a slice is not interrupted
                    if time.monotonic() - self._sent_at < self._comment_seconds:
                        continue
                    if not self._in_event:
                        await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                    self._sent_at = time.monotonic()
