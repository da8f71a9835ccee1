"""Whoever asked for a reply listens to it, and may hang up: that stops the reply, unless it goes on for others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from replies.running_reply import Reply


async def heard(reply: Reply, hung_up: Callable[[], Awaitable[None]], goes_on: bool) -> tuple[bytes, dict[str, str]]:
    """The whole reply, for a client that may hang up: that stops it, unless it `goes_on`."""
    whole = asyncio.ensure_future(reply.whole())
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done() and not goes_on:
            reply.stop("client_closed")
        return await whole
    finally:
        whole.cancel()
        gone.cancel()


async def streamed(reply: Reply, goes_on: bool) -> AsyncIterator[bytes]:
    """The reply's stream, for a client that may hang up: that stops it, unless it `goes_on`."""
    over = False
    try:
        async for sent in reply.stream():
            yield sent
        over = True
    finally:
        if not over and not goes_on:
            reply.stop("client_closed")
