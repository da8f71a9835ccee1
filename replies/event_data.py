"""Splits a stream of server-sent events into the type and the data of each event, for WebSockets and chat completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

SEPARATOR = b"\n\n"


async def event_data(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[tuple[str, bytes], None]:
    """The type and the JSON text of each event. Comments are left out, and so is `[DONE]`, which has no type.

    `stream`: the chunks of a stream that `stream_events.py` has encoded. It is closed when this generator ends.
    """
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
