"""Small clients that follow streams. One process can hold thousands of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


@asynccontextmanager
async def event_source(url: str, path: str) -> AsyncIterator[AsyncIterator[str]]:
    """Yields the lines of the stream."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**20)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head + await reader.read(1000)
        assert b"transfer-encoding: chunked" in head.lower(), head
        yield _lines(reader)
    finally:
        writer.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    line_start = b""
    while size := int(await reader.readline(), 16):
        *lines, line_start = (line_start + (await reader.readexactly(size))).split(b"\n")
        await reader.readexactly(2)
        for line in lines:
            yield line.decode()
    await reader.readexactly(2)


async def follow_reply(url: str, response_id: str, connected: asyncio.Semaphore) -> str:
    """Returns the text of the reply. Fails if an event is missing or repeated, or if the reply does not complete."""
    text, count, kind = "", 0, ""
    async with event_source(url, f"/v1/responses/{response_id}?stream=true") as lines:
        connected.release()
        async for line in lines:
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert event["sequence_number"] == count, "an event is missing or repeated"
            count, kind = count + 1, event["type"]
            text += event.get("delta", "")
    assert kind == "response.completed"
    return text


async def follow_events(url: str, conversation_id: str, last: int, connected: asyncio.Semaphore) -> None:
    version = 0
    async with event_source(url, f"/v1/conversations/{conversation_id}/events") as lines:
        connected.release()
        async for line in lines:
            if line.startswith("id: "):
                assert int(line.removeprefix("id: ")) == version + 1, "an event is missing or repeated"
                version += 1
                if version == last:
                    return
    raise AssertionError(f"the stream ended at version {version}")
