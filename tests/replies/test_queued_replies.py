"""Queued replies: their Response, their stream, and what happens after a disconnect or the end of the process."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from domain.events import REPLY_ENDS, ReplyInterrupted, ReplyQueued
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, error_of, events_of, open_api, post_response
from tests.commands.slow_answers import SlowAnswers
from tests.log import Log
from tests.queries.conftest import eventually
from tests.replies.both_apis import BothApis, open_both_apis, served
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def slow(provider: ScriptedProvider) -> SlowAnswers:
    provider.script = slow = SlowAnswers()
    return slow


@pytest.fixture
def with_provider(settings: Settings, provider: ScriptedProvider) -> Settings:
    return settings.model_copy(update={"openai_base_url": provider.url, "default_model": "scripted"})


@pytest.fixture
async def both(with_provider: Settings) -> AsyncIterator[BothApis]:
    async with open_both_apis(with_provider) as both:
        yield both


async def wait_until_queued(log: Log, conversation: str, count: int = 1) -> list[str]:
    def ids() -> list[str]:
        return [event.response_id for event in log.events(conversation) if isinstance(event, ReplyQueued)]

    await eventually(lambda: len(ids()) == count)
    return ids()


async def first_reply(slow: SlowAnswers, http: httpx.AsyncClient, conversation: str) -> "asyncio.Task[httpx.Response]":
    before = len(slow.questions)
    task = asyncio.create_task(post_response(http, "q0", conversation=conversation))
    await eventually(lambda: len(slow.questions) > before)
    return task


async def test_a_waiting_response_is_shown_as_queued(both: BothApis, slow: SlowAnswers, log: Log) -> None:
    http = both.http
    conversation = await create_conversation(http)
    first = await first_reply(slow, http, conversation)
    body = {"conversation": conversation, "on_busy": "queue", "stream": True, "temperature": 0.5}
    posted = asyncio.create_task(post_response(http, "q1", **body))
    [response_id] = await wait_until_queued(log, conversation)
    path = f"/v1/responses/{response_id}"
    await both.projector.catch_up()
    waits = (await http.get(path)).json()
    assert (waits["status"], waits["output"], waits["temperature"]) == ("queued", [], 0.5)
    [entry, _] = (await http.get(f"/v1/conversations/{conversation}/responses")).json()["data"]
    assert (entry["id"], entry["status"]) == (response_id, "queued")
    [item] = (await http.get(f"{path}/input_items")).json()["data"]
    assert item["content"][0]["text"] == "q1"
    assert error_of(await http.get(f"{path}/context"))[:2] == (404, "context_not_assembled")
    [event] = (await http.get(f"/v1/conversations/{conversation}/events?after=2")).json()["data"]
    assert (event["type"], event["data"]["input"][0]["item"]["content"]) == ("reply.queued", "q1")
    followed = asyncio.create_task(http.get(path, params={"stream": "true"}))
    taken_out = {"conversation": conversation, "on_busy": "queue", "background": True}
    cancelled_id = (await post_response(http, "q2", **taken_out)).json()["id"]
    cancelled = (await http.post(f"/v1/responses/{cancelled_id}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    slow.release("q0")
    assert (await first).status_code == 200
    await eventually(lambda: "q1" in slow.questions)
    await both.projector.catch_up()
    assert (await http.get(path)).json()["status"] == "in_progress"
    slow.release()
    streamed = (await posted).content
    assert (await followed).content == streamed
    assert (await http.get(path, params={"stream": "true"})).content == streamed
    await both.projector.catch_up()
    ended = (await http.get(path)).json()
    assert events_of(await http.get(path, params={"stream": "true"}))[-1]["response"] == ended
    assert ended["status"] == "completed"
    assert (await http.get(f"{path}/context")).json()["request_sha256_matches"] is True
    of_cancelled = events_of(await http.get(f"/v1/responses/{cancelled_id}", params={"stream": "true"}))
    kinds = ["response.created", "response.queued", "response.incomplete"]
    assert [event["type"] for event in of_cancelled] == kinds
    assert of_cancelled[-1]["response"] == cancelled == (await http.get(f"/v1/responses/{cancelled_id}")).json()


async def test_when_a_client_disconnects_its_reply_is_removed_from_the_queue(
    both: BothApis, slow: SlowAnswers, log: Log
) -> None:
    conversation = await create_conversation(both.http)
    first = await first_reply(slow, both.http, conversation)
    body = {"input": "q1", "conversation": conversation, "on_busy": "queue", "stream": True}
    async with served(both.app) as client:
        async with client.stream("POST", "/v1/responses", json=body) as answer:
            assert "response.created" in await anext(answer.aiter_lines())
        await eventually(lambda: isinstance(log.events(conversation)[-1], ReplyInterrupted))
    slow.release()
    assert (await first).status_code == 200
    assert slow.questions == ["q0"]
    assert (await post_response(both.http, "next", conversation=conversation)).status_code == 200


async def test_another_process_takes_over_queued_replies_that_need_no_client(
    with_provider: Settings, slow: SlowAnswers, log: Log
) -> None:
    async with open_api(with_provider) as api:
        stops = await create_conversation(api)
        finishes = await create_conversation(api, context_policy={"on_disconnect": "finish"})
        running = [await first_reply(slow, api, conversation) for conversation in (stops, finishes)]
        async with open_api(with_provider) as stopping:
            background = {"on_busy": "queue", "background": True}
            assert (await post_response(stopping, "b", conversation=stops, **background)).status_code == 200
            in_foreground = [
                asyncio.create_task(post_response(stopping, "f", conversation=conversation, on_busy="queue"))
                for conversation in (stops, finishes)
            ]
            await wait_until_queued(log, stops, 2)
            await wait_until_queued(log, finishes)
        interrupted, taken_over = await asyncio.gather(*in_foreground)
        assert interrupted.json()["status"] == "incomplete"
        assert error_of(taken_over)[:2] == (503, "response_in_progress")
        assert taken_over.headers["x-should-retry"] == "false"
        slow.release()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]

        def ends(conversation: str) -> int:
            return sum(isinstance(event, REPLY_ENDS) for event in log.events(conversation))

        await eventually(lambda: ends(stops) == 3 and ends(finishes) == 2, 15)
        assert sorted(slow.questions) == ["b", "f", "q0", "q0"]
        assert log.topics(stops)[-1] == log.topics(finishes)[-1] == "reply.completed"
