"""The live writer beside a Redis that hangs, and closed at any moment: whoever listens goes on, and the process ends."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from infrastructure.settings import Settings
from infrastructure.stores import redis
from replies.live_events import LiveWriter

EVENT = b"event: x\ndata: {}\n\n"


@pytest.fixture
async def hanging(settings: Settings) -> AsyncIterator[Settings]:
    """A Redis that takes connections and never answers."""
    over = asyncio.Event()
    hanging: list[asyncio.Task[None] | None] = []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(asyncio.current_task())
        await over.wait()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    over.set()
    server.close()
    await asyncio.gather(*filter(None, hanging), return_exceptions=True)


async def test_given_a_redis_that_hangs_from_the_first_event_on_then_nobody_waits_for_it_for_long(
    hanging: Settings,
) -> None:
    client = redis.connect(hanging, answer_seconds=None)
    writer = LiveWriter(client)
    writer.start()
    written = asyncio.Event()
    writer.write("resp_1", 0, EVENT, lambda _: written.set())
    try:
        async with asyncio.timeout(4):
            await written.wait()
            await writer.close()
    finally:
        await client.aclose()


async def test_given_events_on_their_way_when_the_writer_is_closed_at_any_moment_then_it_ends(
    settings: Settings,
) -> None:
    moment = random.Random(7)
    for number in range(200):
        client = redis.connect(settings, answer_seconds=None)
        writer = LiveWriter(client)
        writer.start()
        written: list[int] = []
        for sequence in range(3):
            writer.write(f"resp_{number}", sequence, EVENT, written.append)
            await asyncio.sleep(moment.random() * moment.choice((0, 0.001, 0.003)))
        async with asyncio.timeout(2):
            await writer.close()
        await client.aclose()
        assert written[-1] == 2
