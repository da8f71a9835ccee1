"""Splits a stream of server-sent events into the type and the data of each event."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

SEPARATOR = b"\n\n"


async def event_data(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[tuple[str, bytes], None]:
    """Leaves out comments and `[DONE]`. Closes `stream` at the end."""
    unread = bytearray()
    async with aclosing(stream):
        async for chunk in stream:
            unread += chunk
            begin = 0
            while (end := unread.find(SEPARATOR, begin)) != -1:
                block = bytes(unread[begin:end])
                begin = end + len(SEPARATOR)
                if block.startswith(b"event: "):
                    kind, _, data = block.partition(b"\ndata: ")
                    yield kind[7:].decode(), data
            del unread[:begin]
