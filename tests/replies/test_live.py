"""The live tail's writer: what it was given is in Redis, each event once and in order, whatever becomes of its connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infrastructure.settings import Settings
from infrastructure.stores import redis
from replies import live_events, stream_events
from replies.live_events import LiveWriter, events_so_far

RESPONSE = "resp_live"


@pytest.fixture
async def kept(settings: Settings) -> AsyncIterator[Redis]:
    client = redis.connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def its_own(settings: Settings) -> AsyncIterator[Redis]:
    """The writer's client."""
    client = redis.connect(settings, answer_seconds=None)
    yield client
    await client.aclose()


@pytest.fixture
async def writer(its_own: Redis) -> AsyncIterator[LiveWriter]:
    writer = LiveWriter(its_own)
    writer.start()
    yield writer
    await writer.close()


def event(number: int) -> bytes:
    return stream_events.encode(
        {"type": "response.output_text.delta", "delta": f"word {number} ", "item_id": "msg_1"}, number
    )


async def command(client: Redis, *words: str) -> None:
    await client.execute_command(*words)  # type: ignore[no-untyped-call] # the library's


async def written(writer: LiveWriter, first: int, last: int) -> list[int]:
    """The numbers that the writer tells of these events, up to that of the last."""
    told: list[int] = []
    there = asyncio.Event()

    def note(sequence: int) -> None:
        told.append(sequence)
        if sequence == last:
            there.set()

    for number in range(first, last + 1):
        writer.write(RESPONSE, number, event(number), note)
    async with asyncio.timeout(5):
        await there.wait()
    return told


async def test_given_many_events_when_they_are_written_then_they_are_there_in_order_before_anyone_is_told(
    writer: LiveWriter, kept: Redis
) -> None:
    count = 3 * live_events.MAX_BATCH_EVENTS
    told = await written(writer, 0, count - 1)
    assert told == sorted(told)
    assert await events_so_far(kept, RESPONSE) == [event(number) for number in range(count)]


@pytest.mark.parametrize("disturb", ["CLIENT KILL ID {0}", "SCRIPT FLUSH"])
async def test_given_a_connection_that_was_cut_or_a_script_forgotten_when_more_is_written_then_nothing_is_missing(
    writer: LiveWriter, its_own: Redis, kept: Redis, disturb: str
) -> None:
    await written(writer, 0, 4)
    await command(kept, *disturb.format(await its_own.client_id()).split())
    await written(writer, 5, 9)
    assert await events_so_far(kept, RESPONSE) == [event(number) for number in range(10)]


async def test_given_a_redis_that_stands_still_when_an_event_is_written_then_whoever_wrote_it_is_told_all_the_same(
    writer: LiveWriter, kept: Redis
) -> None:
    await written(writer, 0, 4)
    await command(kept, "CLIENT", "PAUSE", "3000", "WRITE")
    try:
        async with asyncio.timeout(2 * live_events.WRITE_TIMEOUT_SECONDS + 0.5):
            assert await written(writer, 5, 6) == [6]
            assert await written(writer, 7, 7) == [7], "while it is away nobody waits"
    finally:
        await command(kept, "CLIENT", "UNPAUSE")
