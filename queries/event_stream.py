"""A conversation's events as they happen, as server-sent events. Only `events.py` imports it.

Format: WHATWG HTML, "Server-sent events". A stream holds no connection while it waits, and ends when its client hangs up,
or behind the conversation's deletion.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from domain.events import ConversationDeleted
from infrastructure.event_log.recorded import Recorded
from queries.log_access import LogAccess, LogAway

POLL_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 15.0
BATCH: Final = 100


async def follow(
    log: LogAccess, conversation_id: str, after: int, render: Callable[[Recorded], bytes], shutdown: threading.Event
) -> AsyncIterator[bytes]:
    """Every event with a version above `after`, until the conversation is deleted or `shutdown` is set.

    A comment after each HEARTBEAT_SECONDS without an event.
    """
    spoke = time.monotonic()
    while not shutdown.is_set():
        events = await _news(log, conversation_id, after)
        if events:
            yield b"".join(_sent(each, render(each)) for each in events)
            after = events[-1].version
            spoke = time.monotonic()
            if isinstance(events[-1].event, ConversationDeleted):
                return
        elif time.monotonic() - spoke >= HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            spoke = time.monotonic()
        if len(events) < BATCH:
            await asyncio.sleep(POLL_SECONDS)


async def _news(log: LogAccess, conversation_id: str, after: int) -> Sequence[Recorded]:
    """What is new. Nothing can be while Postgres is away: the stream waits with it, for a client would not come back from a 503."""
    try:
        return await log.ask(lambda reader: reader.conversation(conversation_id, after=after, limit=BATCH))
    except LogAway:
        return ()


def _sent(recorded: Recorded, body: bytes) -> bytes:
    # A line break in JSON text can only stand between tokens, where a space does as well.
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return f"id: {recorded.version}\nevent: {recorded.event.topic}\ndata: ".encode() + line + b"\n\n"
