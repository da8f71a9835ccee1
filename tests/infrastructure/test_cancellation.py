"""A background task ends when it is cancelled, also if a store's client swallows the CancelledError.

Each task is cancelled at each of the first turns of the event loop. During some turns, a client sends a command.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from infrastructure.http.stream_pages import StreamPages
from infrastructure.ids import mint_uuid
from infrastructure.limits.requests import RequestCount
from infrastructure.limits.shared_counts import SharedCounts
from infrastructure.settings import Settings
from infrastructure.stores import redis
from replies.live_reader import LiveReader

TURNS = 30


@asynccontextmanager
async def shared_counts(settings: Settings) -> AsyncIterator[None]:
    async with redis.connect(settings) as client:
        counts = SharedCounts(mint_uuid())
        await counts.open(client)
        counts.want(RequestCount("limits:acme", 5))
        yield
        await counts.close([])


@asynccontextmanager
async def live_reader(settings: Settings) -> AsyncIterator[None]:
    async with redis.connect(settings) as client:
        reader = LiveReader(client, StreamPages())
        with reader.follow("resp_1"):
            yield
            await reader.close()


@pytest.mark.parametrize("opened", [shared_counts, live_reader])
async def test_a_background_task_ends_whenever_it_is_closed(
    settings: Settings, opened: Callable[[Settings], AbstractAsyncContextManager[None]]
) -> None:
    for turns in range(TURNS):
        async with asyncio.timeout(5), opened(settings):
            for _ in range(turns):
                await asyncio.sleep(0)
