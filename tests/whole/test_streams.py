"""Streams that lose their connection, their Redis or their process: every client has each event once, and the text that is stored.

scripts/test tests/whole/test_streams.py                                 a few, as in CI
scripts/test tests/whole/test_streams.py -m endless                      two hundred
CUT_STREAMS=50 CUT_SEED=7 scripts/test tests/whole/test_streams.py       others
"""

import asyncio
import os
import random
import time
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.scripted_provider import ScriptedProvider
from tests.system import System
from tests.whole.streams import Follower, endless, talkative

UP = ("--apis", "2")
WITH_PROVIDER = True
A_FEW = int(os.environ.get("CUT_STREAMS", "16"))
TWO_HUNDRED = 200
SEED = int(os.environ.get("CUT_SEED", "1"))
AT_ONCE = 8


def said(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def stored(http: httpx.AsyncClient, url: str, response_id: str) -> dict[str, Any]:
    answer = await http.get(f"{url}/v1/responses/{response_id}")
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def until(http: httpx.AsyncClient, url: str, response_id: str, status: str, seconds: float) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        while True:
            response = await stored(http, url, response_id)
            if response["status"] == status:
                return response
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("count", [A_FEW, pytest.param(TWO_HUNDRED, marks=pytest.mark.endless)])
async def test_streams_cut_at_random_points_are_resumed_without_a_gap_or_a_repeat(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider, count: int
) -> None:
    provider.script = talkative(SEED)
    turn = asyncio.Semaphore(AT_ONCE)

    async def follow(number: int) -> Follower:
        chance = random.Random(f"{SEED} {number}")
        home, follower = urls[number % 2], Follower()
        async with turn:
            await follower.ask(http, home, {"input": f"stream {number}", "background": True}, chance.randint(1, 30))
            for _ in range(chance.randint(0, 2)):
                if not follower.is_over:
                    await follower.resume(http, chance.choice(urls), chance.randint(1, 20))
            if number % 4 == 0 and not follower.is_over:
                return follower  # resumed when Redis has lost it
            if not follower.is_over:
                await follower.resume(http, urls[(number + 1) % 2] if number % 2 else home)
        return follower

    followers = await asyncio.gather(*map(follow, range(count)))
    late = [follower for follower in followers if not follower.is_over]
    for follower in late:
        await until(http, urls[0], follower.response_id, "completed", 20)
    with Redis.from_url(running.env["REDIS_URL"]) as redis:
        redis.flushall()
    for number, follower in enumerate(late):
        await follower.resume(http, urls[number % 2])
    for follower in followers:
        assert follower.is_over
        response = await stored(http, urls[0], follower.response_id)
        assert follower.text == said(response)
        assert follower.events[-1]["response"] == response
        again = Follower()
        again.events = follower.events[:1]
        await again.resume(http, urls[1])
        assert again.events == follower.events


async def test_two_readers_follow_one_reply_and_redis_that_is_emptied_under_it_costs_them_time_alone(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = talkative(SEED, pause=0.05)
    first = Follower()
    await first.ask(http, urls[0], {"input": "while Redis is emptied", "background": True}, 6)
    second = Follower()
    second.events = first.events[:2]
    reading = [asyncio.create_task(each.resume(http, url)) for each, url in zip((first, second), urls, strict=True)]
    with Redis.from_url(running.env["REDIS_URL"]) as redis:
        redis.flushall()
    await asyncio.gather(*reading)
    assert first.events == second.events
    assert first.text == said(await stored(http, urls[0], first.response_id))


async def test_a_reply_is_cancelled_from_another_process_within_a_second_and_its_followers_are_told(
    http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless
    provider.disconnected.clear()
    follower = Follower()
    await follower.ask(http, urls[0], {"input": "go", "background": True}, 8)
    resumed = asyncio.create_task(follower.resume(http, urls[1]))
    began = time.monotonic()
    cancelled = await http.post(f"{urls[1]}/v1/responses/{follower.response_id}/cancel")
    assert cancelled.status_code == 200, cancelled.text
    assert cancelled.json()["status"] == "cancelled"
    assert await asyncio.to_thread(provider.disconnected.wait, 5)
    assert time.monotonic() - began < 2, "a second, and what a busy machine adds"
    await asyncio.wait_for(resumed, 10)
    assert follower.events[-1]["response"]["status"] == "cancelled"
    assert said(follower.events[-1]["response"]) == follower.text
    assert (await stored(http, urls[0], follower.response_id)) == follower.events[-1]["response"]
    again = await http.post(f"{urls[0]}/v1/responses/{follower.response_id}/cancel")
    assert again.json() == cancelled.json()


async def test_replies_whose_process_is_killed_are_incomplete_with_what_they_had_said_and_their_conversations_go_on(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless
    home, other = urls
    conversations = [(await http.post(f"{home}/v1/conversations", json={})).json()["id"] for _ in range(20)]
    followers = [Follower() for _ in conversations]

    async def ask(follower: Follower, conversation: str) -> None:
        try:
            await follower.ask(http, home, {"input": f"question of {conversation}", "conversation": conversation})
        except httpx.HTTPError:
            return  # the process was killed, as it should

    asking = [asyncio.create_task(ask(*pair)) for pair in zip(followers, conversations, strict=True)]
    async with asyncio.timeout(20):
        while True:
            if min(len(follower.events) for follower in followers) >= 10:
                break
            await asyncio.sleep(0.01)
    running.wait_restarted("api", running.kill("api"))
    restarted = time.monotonic()
    await asyncio.gather(*asking)
    provider.script = talkative(SEED)
    ended = [await until(http, other, follower.response_id, "incomplete", 15) for follower in followers]
    assert time.monotonic() - restarted < 10
    for follower, conversation, response in zip(followers, conversations, ended, strict=True):
        assert said(response).startswith(follower.text)
        items = (await http.get(f"{other}/v1/responses/{follower.response_id}/input_items")).json()["data"]
        assert items[0]["content"][0]["text"] == f"question of {conversation}"
        await follower.resume(http, other)
        assert follower.events[-1]["response"] == response
        assert follower.text == said(response)
        turn = await http.post(f"{other}/v1/responses", json={"input": "go on", "conversation": conversation})
        assert turn.json()["status"] == "completed", turn.text
