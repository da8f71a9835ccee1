"""Server-sent events, read raw: a client's own decoding costs 200 us an event, this a few, and one core has a hundred streams.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import httpx2

from replies.provider.failures import too_long

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Bytes. An image in base64 fits."""

LINE_BYTES = 64
"""What a line takes beside its text."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LAST_BYTES_SECONDS = 0.5
"""How long the end of an answer is waited for when nothing more can come: then its connection can be used again."""


async def events(
    response: httpx2.Response,
    timeout: float,  # noqa: ASYNC109 - between events
    is_whole: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    """The data of each event, up to `[DONE]`, the event after which `is_whole` is true, or the end.

    Raises TimeoutError when there is none for `timeout` seconds, whatever else comes; httpx2.HTTPError; ModelFailed.
    """
    data: list[bytes] = []
    line: list[bytes] = []
    size = 0
    chunks = response.aiter_bytes()
    since = time.monotonic()
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        line.append(first)
        size += len(chunk)
        if size > MAX_EVENT_BYTES:
            raise too_long()
        for other in others:
            whole = b"".join(line).removesuffix(b"\r").removeprefix(_BYTE_ORDER_MARK)
            line = [other]
            if whole.startswith(b"data:"):
                data.append(whole[5:].removeprefix(b" "))
                size += LINE_BYTES
            elif not whole:
                size = 0
                if not data:
                    continue
                event = b"\n".join(data)
                if not event.strip():  # some keep a connection alive with it
                    data = []
                    continue
                if event == b"[DONE]":
                    await _finish(chunks)
                    return
                yield event
                if is_whole():
                    await _finish(chunks)
                    return
                data = []
                since = time.monotonic()
        if time.monotonic() - since > timeout:
            raise TimeoutError
    rest = b"".join(line).rstrip()
    if rest.startswith(b"data:"):  # no provider should end without the blank line; some do
        data.append(rest[5:].removeprefix(b" "))
    if data and data != [b"[DONE]"]:
        yield b"\n".join(data)


async def _finish(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(LAST_BYTES_SECONDS):
            async for _ in chunks:
                pass
    except (TimeoutError, httpx2.HTTPError):
        return
