"""Streams lose their connection, Redis is emptied, or thousands of clients follow. Each client gets every event once.

scripts/test tests/end_to_end/test_streams.py                                 a few streams, as in CI
scripts/test tests/end_to_end/test_streams.py -m endless                      two hundred streams; 1,000 followers of replies and 2,000 of events
CUT_STREAMS=50 CUT_SEED=7 scripts/test tests/end_to_end/test_streams.py       other streams
"""

import asyncio
import os
import random
import time

import httpx
import pytest
from redis import Redis

from tests.end_to_end.event_source import follow_events, follow_reply
from tests.end_to_end.reply_streams import StreamReader, retrieve, retrieve_when, text_of, varied_answers
from tests.scripted_provider import Exchange, Script, ScriptedProvider
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
A_FEW = int(os.environ.get("CUT_STREAMS", "16"))
TWO_HUNDRED = 200
SEED = int(os.environ.get("CUT_SEED", "1"))
CONCURRENT_STREAMS = 8


@pytest.mark.parametrize("count", [A_FEW, pytest.param(TWO_HUNDRED, marks=pytest.mark.endless)])
async def test_streams_that_break_are_resumed_without_a_missing_or_repeated_event(
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
        redis.flushdb()
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


async def test_two_readers_of_a_reply_get_the_same_events_while_redis_is_emptied(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = varied_answers(SEED, pause_seconds=0.05)
    first = StreamReader()
    await first.ask(http, urls[0], {"input": "while Redis is emptied", "background": True}, 6)
    second = StreamReader(first.events[:2])
    tasks = [asyncio.create_task(reader.resume(http, url)) for reader, url in zip((first, second), urls, strict=True)]
    with Redis.from_url(running.env["REDIS_URL"]) as redis:
        redis.flushdb()
    await asyncio.gather(*tasks)
    assert first.events == second.events
    assert first.text == text_of(await retrieve(http, urls[0], first.response_id))


WORDS = 60
APPENDS = 10
CLIENTS_OF_A_REPLY = 20
CLIENTS_OF_A_CONVERSATION = 10


def count_slowly(pause_seconds: float) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for number in range(WORDS):
            exchange.text_chunk(f"{number} ")
            time.sleep(pause_seconds)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


@pytest.mark.parametrize(
    "load", [(60, 60, 0.05), pytest.param((1_000, 2_000, 0.5), marks=pytest.mark.endless)], ids=["a few", "thousands"]
)
async def test_many_followers_miss_no_event(
    http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider, load: tuple[int, int, float]
) -> None:
    of_replies, of_events, pause_seconds = load
    provider.script = count_slowly(pause_seconds)
    conversation_ids = [
        (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
        for _ in range(of_events // CLIENTS_OF_A_CONVERSATION)
    ]
    connected = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as clients:
        for conversation_id in conversation_ids:
            for number in range(CLIENTS_OF_A_CONVERSATION):
                clients.create_task(follow_events(urls[number % 2], conversation_id, 1 + APPENDS, connected))
        texts: list[asyncio.Task[str]] = []
        for number in range(of_replies // CLIENTS_OF_A_REPLY):
            body = {"input": "count", "background": True}
            reply = (await http.post(f"{urls[number % 2]}/v1/responses", json=body)).json()["id"]
            texts += [
                clients.create_task(follow_reply(urls[n % 2], reply, connected)) for n in range(CLIENTS_OF_A_REPLY)
            ]
        for _ in range(of_replies + of_events):
            await connected.acquire()
        for number in range(APPENDS):
            url = urls[number % 2]
            for conversation_id in conversation_ids:
                item = {"type": "message", "role": "user", "content": "hello"}
                appended = await http.post(f"{url}/v1/conversations/{conversation_id}/items", json={"items": [item]})
                assert appended.status_code == 200, appended.text
            for path in ("/v1/conversations", f"/v1/conversations/{conversation_ids[-1]}/items"):
                read = await http.get(f"{url}{path}")
                assert (read.status_code, read.headers.get("x-consistency")) == (200, None), read.text
    assert {text.result() for text in texts} == {"".join(f"{number} " for number in range(WORDS))}
