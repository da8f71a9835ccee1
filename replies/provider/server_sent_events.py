"""Reads server-sent events from raw bytes. The official client's decoder takes 200 us an event, this one a few.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import httpx2

from replies.provider.failures import answer_too_long

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""An image in base64 fits."""

LINE_OVERHEAD_BYTES = 64
"""Counted for each data line, for the memory it takes besides its text: so data lines without text count too."""

DRAIN_TIMEOUT_SECONDS = 0.5
"""How long to wait for the end of the response after its last event. The connection of a response that was read to its end can be reused."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def read_events(
    response: httpx2.Response,
    timeout: float,  # noqa: ASYNC109 - between events that bring something
    is_complete: Callable[[], bool],
    progress: Callable[[], object],
) -> AsyncGenerator[bytes, None]:
    """The data of each event, up to `[DONE]`, the event after which `is_complete` is true, or the end of the response.

    The value of `progress` changes when an event brought something. Raises TimeoutError when none does for `timeout` seconds, even
    if comments and empty events come; httpx2.HTTPError; ModelFailed.
    """
    data: list[bytes] = []
    line_parts: list[bytes] = []
    size = 0
    chunks = response.aiter_bytes()
    last_progress_at = time.monotonic()
    async for chunk in chunks:
        end_of_line, *next_lines = chunk.split(b"\n")
        line_parts.append(end_of_line)
        size += len(chunk)
        if size > MAX_EVENT_BYTES:
            raise answer_too_long()
        for next_line in next_lines:
            line = b"".join(line_parts).removesuffix(b"\r").removeprefix(_BYTE_ORDER_MARK)
            line_parts = [next_line]
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
                size += LINE_OVERHEAD_BYTES
            elif not line:
                size = 0
                if not data:
                    continue
                event = b"\n".join(data)
                if not event.strip():  # some providers send empty data to keep the connection alive
                    data = []
                    continue
                if event == b"[DONE]":
                    await _drain(chunks)
                    return
                before = progress()
                yield event
                if is_complete():
                    await _drain(chunks)
                    return
                data = []
                if progress() != before:
                    last_progress_at = time.monotonic()
        if time.monotonic() - last_progress_at > timeout:
            raise TimeoutError
    last_line = b"".join(line_parts).rstrip()
    if last_line.startswith(b"data:"):  # some providers leave out the blank line after the last event
        data.append(last_line[5:].removeprefix(b" "))
    if data and data != [b"[DONE]"]:
        yield b"\n".join(data)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
            async for _ in chunks:
                pass
    except (TimeoutError, httpx2.HTTPError):
        return
