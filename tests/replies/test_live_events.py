"""The writer of live events: what Redis gets, and what is reported as written."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from infrastructure.settings import Settings
from infrastructure.stores import redis
from replies import live_events, stream_events
from replies.live_events import LiveWriter, events_so_far

RESPONSE = "resp_live"


@pytest.fixture
async def reading_redis(settings: Settings) -> AsyncIterator[Redis]:
    client = redis.connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def writing_redis(settings: Settings) -> AsyncIterator[Redis]:
    client = redis.connect(settings, answer_seconds=None)
    yield client
    await client.aclose()


@pytest.fixture
async def writer(writing_redis: Redis) -> AsyncIterator[LiveWriter]:
    writer = LiveWriter(writing_redis)
    writer.start()
    yield writer
    await writer.close()


def event(number: int) -> bytes:
    return stream_events.encode(
        {"type": "response.output_text.delta", "delta": f"word {number} ", "item_id": "msg_1"}, number
    )


async def command(client: Redis, *words: str) -> None:
    await client.execute_command(*words)  # type: ignore[no-untyped-call] # the library has no types here


async def write_events(writer: LiveWriter, first: int, last: int) -> list[int]:
    """Writes these events. Returns the numbers that are reported until `last`."""
    reported: list[int] = []
    last_reported = asyncio.Event()

    def on_written(sequence: int) -> None:
        reported.append(sequence)
        if sequence == last:
            last_reported.set()

    for number in range(first, last + 1):
        writer.write(RESPONSE, number, event(number), on_written)
    async with asyncio.timeout(5):
        await last_reported.wait()
    return reported


async def test_redis_has_all_events_in_order_when_the_last_one_is_reported(
    writer: LiveWriter, reading_redis: Redis
) -> None:
    count = 3 * live_events.MAX_BATCH_EVENTS
    reported = await write_events(writer, 0, count - 1)
    assert reported == sorted(reported)
    assert await events_so_far(reading_redis, RESPONSE) == [event(number) for number in range(count)]


@pytest.mark.parametrize("disturb", ["CLIENT KILL ID {0}", "SCRIPT FLUSH"])
async def test_no_event_is_missing_after_a_lost_connection_or_script(
    writer: LiveWriter, writing_redis: Redis, reading_redis: Redis, disturb: str
) -> None:
    await write_events(writer, 0, 4)
    await command(reading_redis, *disturb.format(await writing_redis.client_id()).split())
    await write_events(writer, 5, 9)
    assert await events_so_far(reading_redis, RESPONSE) == [event(number) for number in range(10)]


async def test_an_event_is_reported_as_written_although_redis_is_paused(
    writer: LiveWriter, reading_redis: Redis
) -> None:
    await write_events(writer, 0, 4)
    await command(reading_redis, "CLIENT", "PAUSE", "3000", "WRITE")
    try:
        async with asyncio.timeout(2 * live_events.WRITE_TIMEOUT_SECONDS + 0.5):
            assert await write_events(writer, 5, 6) == [6]
            assert await write_events(writer, 7, 7) == [7], "after a failed write, events are reported at once"
    finally:
        await command(reading_redis, "CLIENT", "UNPAUSE")


EVENT = b"event: x\ndata: {}\n\n"


@pytest.fixture
async def hanging_redis(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with a Redis that accepts connections and never answers."""
    test_ended = asyncio.Event()
    connections: list[asyncio.Task[None] | None] = []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        await test_ended.wait()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    test_ended.set()
    server.close()
    await asyncio.gather(*filter(None, connections), return_exceptions=True)


async def test_events_are_soon_reported_as_written_if_redis_never_answers(
    hanging_redis: Settings,
) -> None:
    client = redis.connect(hanging_redis, answer_seconds=None)
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


async def test_a_closed_writer_reports_the_last_waiting_event_and_ends(
    settings: Settings,
) -> None:
    randomness = random.Random(7)
    for number in range(200):
        client = redis.connect(settings, answer_seconds=None)
        writer = LiveWriter(client)
        writer.start()
        written: list[int] = []
        for sequence in range(3):
            writer.write(f"resp_{number}", sequence, EVENT, written.append)
            await asyncio.sleep(randomness.random() * randomness.choice((0, 0.001, 0.003)))
        async with asyncio.timeout(2):
            await writer.close()
        await client.aclose()
        assert written[-1] == 2
