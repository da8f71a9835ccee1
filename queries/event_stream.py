"""A conversation's events as a stream of server-sent events. `events.py` serves it.

Format: WHATWG HTML, "Server-sent events". A stream holds no database connection while it waits. It ends when its client disconnects,
and after the conversation's deletion.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from domain.events import ConversationDeleted
from infrastructure.event_log.recorded import Recorded
from queries.log_access import LogAccess, PostgresUnavailable

POLL_INTERVAL_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 15.0
BATCH_EVENTS: Final = 100


async def follow_events(
    log: LogAccess,
    conversation_id: str,
    after: int,
    render: Callable[[Recorded], bytes],
    *,
    shutdown: threading.Event,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncIterator[bytes]:
    """Yields every event with a version above `after`, until the conversation is deleted or `shutdown` is set.

    After each `heartbeat_seconds` without an event, yields a comment.
    """
    sent_at = time.monotonic()
    while not shutdown.is_set():
        events = await _new_events(log, conversation_id, after)
        if events:
            yield b"".join(_sse(recorded, render(recorded)) for recorded in events)
            after = events[-1].version
            sent_at = time.monotonic()
            if isinstance(events[-1].event, ConversationDeleted):
                return
        elif time.monotonic() - sent_at >= heartbeat_seconds:
            yield b": still here\n\n"
            sent_at = time.monotonic()
        if len(events) < BATCH_EVENTS:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def _new_events(log: LogAccess, conversation_id: str, after: int) -> Sequence[Recorded]:
    """The next events; none while Postgres is unavailable. The stream must not end then: clients do not reconnect after a 503."""
    try:
        return await log.conversation(conversation_id, after=after, limit=BATCH_EVENTS)
    except PostgresUnavailable:
        return ()


def _sse(recorded: Recorded, body: bytes) -> bytes:
    # In JSON a line break can only be between tokens, where a space means the same.
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return f"id: {recorded.version}\nevent: {recorded.event.topic}\ndata: ".encode() + line + b"\n\n"
