"""Streams lose their connection, or Redis is emptied. Clients resume them: each gets every event once, and the text that is stored.

scripts/test tests/end_to_end/test_streams.py                                 a few streams, as in CI
scripts/test tests/end_to_end/test_streams.py -m endless                      two hundred
CUT_STREAMS=50 CUT_SEED=7 scripts/test tests/end_to_end/test_streams.py       other streams
"""

import asyncio
import os
import random

import httpx
import pytest
from redis import Redis

from tests.end_to_end.reply_streams import StreamReader, retrieve, retrieve_when, text_of, varied_answers
from tests.scripted_provider import ScriptedProvider
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
A_FEW = int(os.environ.get("CUT_STREAMS", "16"))
TWO_HUNDRED = 200
SEED = int(os.environ.get("CUT_SEED", "1"))
CONCURRENT_STREAMS = 8


@pytest.mark.parametrize("count", [A_FEW, pytest.param(TWO_HUNDRED, marks=pytest.mark.endless)])
async def test_streams_that_break_at_random_points_are_resumed_without_a_missing_or_repeated_event(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider, count: int
) -> None:
    provider.script = varied_answers(SEED)
    slots = asyncio.Semaphore(CONCURRENT_STREAMS)

    async def read(number: int) -> StreamReader:
        rng = random.Random(f"{SEED} {number}")
        url, reader = urls[number % 2], StreamReader()
        async with slots:
            await reader.ask(http, url, {"input": f"stream {number}", "background": True}, rng.randint(1, 30))
            for _ in range(rng.randint(0, 2)):
                if not reader.has_ended:
                    await reader.resume(http, rng.choice(urls), rng.randint(1, 20))
            if number % 4 == 0 and not reader.has_ended:
                return reader  # resumed below, after Redis is emptied
            if not reader.has_ended:
                await reader.resume(http, urls[(number + 1) % 2] if number % 2 else url)
        return reader

    readers = await asyncio.gather(*map(read, range(count)))
    unfinished = [reader for reader in readers if not reader.has_ended]
    for reader in unfinished:
        await retrieve_when(http, urls[0], reader.response_id, "completed", 20)
    with Redis.from_url(running.env["REDIS_URL"]) as redis:
        redis.flushall()
    for number, reader in enumerate(unfinished):
        await reader.resume(http, urls[number % 2])
    for reader in readers:
        assert reader.has_ended
        response = await retrieve(http, urls[0], reader.response_id)
        assert reader.text == text_of(response)
        assert reader.events[-1]["response"] == response
        second_reader = StreamReader(reader.events[:1])
        await second_reader.resume(http, urls[1])
        assert second_reader.events == reader.events


async def test_two_readers_of_a_reply_get_the_same_events_when_redis_is_emptied_meanwhile(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = varied_answers(SEED, pause_seconds=0.05)
    first = StreamReader()
    await first.ask(http, urls[0], {"input": "while Redis is emptied", "background": True}, 6)
    second = StreamReader(first.events[:2])
    tasks = [asyncio.create_task(reader.resume(http, url)) for reader, url in zip((first, second), urls, strict=True)]
    with Redis.from_url(running.env["REDIS_URL"]) as redis:
        redis.flushall()
    await asyncio.gather(*tasks)
    assert first.events == second.events
    assert first.text == text_of(await retrieve(http, urls[0], first.response_id))
