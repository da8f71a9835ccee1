"""Another process cancels a reply or deletes its conversation, or the reply's process is killed or frozen."""

import asyncio
import signal
import time
from functools import partial

import httpx

from domain.events import REPLY_ENDS
from domain.items import without_listed_fields
from infrastructure.embedded.service import answers_http
from tests.end_to_end.killed_regenerate import begin_another_answer, check_killed_regenerate
from tests.end_to_end.reply_streams import (
    StreamReader,
    endless_answer,
    retrieve,
    retrieve_when,
    text_of,
    varied_answers,
)
from tests.end_to_end.requests_at_once import RequestsAtOnce, check_queue
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async
from tests.system import System

UP = ("--apis", "2")
WITH_PROVIDER = True
SEED = 1


def has_reply_end(log: Log, conversation_id: str) -> bool:
    return any(isinstance(event, REPLY_ENDS) for event in log.events(conversation_id))


async def test_a_reply_is_cancelled_from_another_process_and_its_streams_end(
    http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless_answer
    provider.disconnected.clear()
    reader = StreamReader()
    await reader.ask(http, urls[0], {"input": "go", "background": True}, 8)
    reading = asyncio.create_task(reader.resume(http, urls[1]))
    cancelled = await http.post(f"{urls[1]}/v1/responses/{reader.response_id}/cancel")
    assert cancelled.status_code == 200, cancelled.text
    assert cancelled.json()["status"] == "cancelled"
    assert await asyncio.to_thread(provider.disconnected.wait, 5)
    await asyncio.wait_for(reading, 10)
    assert reader.events[-1]["response"]["status"] == "cancelled"
    assert text_of(reader.events[-1]["response"]) == reader.text
    assert (await retrieve(http, urls[0], reader.response_id)) == reader.events[-1]["response"]
    repeated = await http.post(f"{urls[0]}/v1/responses/{reader.response_id}/cancel")
    assert repeated.json() == cancelled.json()


async def test_deleting_a_conversation_ends_its_reply_and_the_streams(
    http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless_answer
    provider.disconnected.clear()
    conversation = (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
    first = StreamReader()
    asking = asyncio.create_task(first.ask(http, urls[0], {"input": "go", "conversation": conversation}))
    await wait_until_async(lambda: len(first.events) > 5, 10, "some events")
    second = StreamReader(first.events[:1])
    resuming = asyncio.create_task(second.resume(http, urls[1]))
    assert (await http.delete(f"{urls[1]}/v1/conversations/{conversation}")).status_code == 200
    assert await asyncio.to_thread(provider.disconnected.wait, 8)
    results = await asyncio.wait_for(asyncio.gather(asking, resuming, return_exceptions=True), 8)
    assert [result for result in results if isinstance(result, TimeoutError)] == []
    assert (await http.get(f"{urls[0]}/v1/responses/{first.response_id}")).status_code == 404


async def test_replies_of_a_killed_process_keep_their_partial_text(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    killed_url, other_url = urls
    another = await begin_another_answer(http, killed_url, provider)
    policies = ({"stopped": "drop"}, {"stopped": "keep"})
    conversations = [
        (await http.post(f"{killed_url}/v1/conversations", json={"context_policy": policies[number % 2]})).json()["id"]
        for number in range(20)
    ]
    readers = [StreamReader() for _ in conversations]

    async def ask(reader: StreamReader, conversation: str) -> None:
        try:
            await reader.ask(http, killed_url, {"input": f"question of {conversation}", "conversation": conversation})
        except httpx.HTTPError:
            return  # the process was killed

    asking = [asyncio.create_task(ask(*pair)) for pair in zip(readers, conversations, strict=True)]
    all_readers = [*readers, another.reader]
    await wait_until_async(lambda: all(len(each.events) >= 10 for each in all_readers), 20, "ten events of each reply")
    running.wait_restarted("api", running.kill("api"))
    restarted = time.monotonic()
    await asyncio.gather(*asking)
    provider.script = varied_answers(SEED)
    ended = [await retrieve_when(http, other_url, reader.response_id, "incomplete", 15) for reader in all_readers]
    assert time.monotonic() - restarted < 10
    assert ended.pop()["incomplete_details"] == {"reason": "interrupted"}
    await check_killed_regenerate(another, http, other_url)
    for reader, conversation, response in zip(readers, conversations, ended, strict=True):
        assert text_of(response).startswith(reader.text)
        items = (await http.get(f"{other_url}/v1/responses/{reader.response_id}/input_items")).json()["data"]
        assert items[0]["content"][0]["text"] == f"question of {conversation}"
        joined = (await http.get(f"{other_url}/v1/conversations/{conversation}/items?order=asc")).json()["data"]
        joined = [without_listed_fields(item) for item in joined]
        assert joined == ([items[0], *response["output"]] if conversation in conversations[1::2] else [])
        await reader.resume(http, other_url)
        assert reader.events[-1]["response"] == response
        assert reader.text == text_of(response)
        turn = await http.post(f"{other_url}/v1/responses", json={"input": "go on", "conversation": conversation})
        assert turn.json()["status"] == "completed", turn.text
    ready = partial(answers_http, f"{killed_url}/health/ready", frozenset({200}))
    await wait_until_async(ready, 30, "the restarted process to be ready")  # for the next test


async def test_waiting_replies_of_a_killed_process_are_taken_over_or_interrupted(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    requests = RequestsAtOnce(running, http, urls, provider)
    await requests.open()
    pid = running.pid("api")
    await check_queue(requests, 20)
    running.wait_restarted("api", pid)
    ready = partial(answers_http, f"{urls[0]}/health/ready", frozenset({200}))
    await wait_until_async(ready, 30, "the restarted process to be ready")  # for the next test


async def test_a_frozen_process_does_not_end_a_reply_that_another_process_ended(
    running: System, http: httpx.AsyncClient, urls: list[str], provider: ScriptedProvider
) -> None:
    provider.script = endless_answer
    conversation = (await http.post(f"{urls[0]}/v1/conversations", json={})).json()["id"]
    first = StreamReader()
    asking = asyncio.create_task(first.ask(http, urls[0], {"input": "go", "conversation": conversation}))
    await wait_until_async(lambda: len(first.events) > 10, 10, "some events")
    second = StreamReader(first.events[:1])
    resuming = asyncio.create_task(second.resume(http, urls[1]))
    running.kill("api", signal.SIGSTOP)
    try:
        ended = partial(has_reply_end, Log(running.env["POSTGRES_URL"]), conversation)
        await wait_until_async(ended, 15, "the reply's end to be recorded")
        await asyncio.wait_for(resuming, 10)
        provider.script = varied_answers(1)
        turn = await http.post(f"{urls[1]}/v1/responses", json={"input": "go on", "conversation": conversation})
        assert turn.json()["status"] == "completed", turn.text
    finally:
        running.kill("api", signal.SIGCONT)
    resumed_at = time.monotonic()
    await asyncio.gather(asking, return_exceptions=True)
    assert time.monotonic() - resumed_at < 10
    stored = (await http.get(f"{urls[1]}/v1/responses/{first.response_id}")).json()
    assert stored["status"] == "incomplete"
    assert second.events[-1]["response"] == stored
    third = StreamReader(second.events[:1])
    await third.resume(http, urls[0])
    assert third.events == second.events
    events = Log(running.env["POSTGRES_URL"]).events(conversation)
    assert sum(isinstance(event, REPLY_ENDS) for event in events) == 2
