"""Stops a reply when its client disconnects or may no longer read the conversation.

The reply goes on if its request (`keep_running`) or its conversation's policy (`finishes_alone`) says so.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from replies.running_reply import RunningReply


async def response_for_client(
    reply: RunningReply, disconnected: Callable[[], Awaitable[object]], *, keep_running: bool
) -> tuple[bytes, dict[str, str]]:
    """Waits for the Response. `disconnected` returns when the client has disconnected."""
    keep_running = keep_running or reply.finishes_alone
    response = asyncio.ensure_future(reply.response())
    gone = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({response, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not (response.done() or keep_running):
            reply.stop("client_closed")
        return await response
    finally:
        if reply.is_cut_off and not keep_running:
            reply.stop("client_closed")
        response.cancel()
        gone.cancel()


async def stream_for_client(reply: RunningReply, *, keep_running: bool) -> AsyncGenerator[bytes, None]:
    complete = False
    try:
        async for events in reply.stream():
            yield events
        complete = not reply.is_cut_off
    finally:
        if not (complete or keep_running or reply.finishes_alone):
            reply.stop("client_closed")
