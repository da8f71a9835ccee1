"""DELETE /v1/responses/{id}: what is deleted with a response, and what stays."""

import asyncio
import threading

import httpx
import pytest
from redis.asyncio import Redis

from domain.events import ConversationDeleted, ItemRetracted, ReplyCancelled, ReplyDeleted
from infrastructure.settings import Settings
from replies.live_events import stream_key
from tests.commands.api_client import (
    create_conversation,
    create_response,
    error_of,
    events_of,
    eventually,
    post_response,
    sent_messages,
)
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000}


async def delete(api: httpx.AsyncClient, response_id: str) -> None:
    answer = await api.delete(f"/v1/responses/{response_id}")
    assert (answer.status_code, answer.json()) == (200, {"object": "response", "id": response_id, "deleted": True})


async def test_an_unlisted_conversation_is_deleted_with_its_only_response(api: httpx.AsyncClient, log: Log) -> None:
    response = await create_response(api, "one")
    conversation_id = response["conversation"]["id"]
    await delete(api, response["id"])
    assert [type(event) for event in log.events(conversation_id)][-2:] == [ReplyDeleted, ConversationDeleted]
    rows = log.rows(
        "SELECT count(DISTINCT command_id) FROM events WHERE topic IN ('reply.deleted', 'conversation.deleted')"
    )
    assert rows == [(1,)], "in one append"
    items = {"items": [{"type": "message", "role": "user", "content": "x"}]}
    assert (await api.post(f"/v1/conversations/{conversation_id}/items", json=items)).status_code == 404
    assert error_of(await post_response(api, "two", previous_response_id=response["id"]))[:2] == (
        400,
        "previous_response_not_found",
    )
    assert (await api.delete(f"/v1/responses/{response['id']}")).status_code == 404


async def test_a_chain_loses_the_items_of_a_deleted_response(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    second = await create_response(api, "two", previous_response_id=first["id"])
    conversation_id = first["conversation"]["id"]
    await delete(api, first["id"])
    retracted = {event.item_id for event in log.events(conversation_id) if isinstance(event, ItemRetracted)}
    assert len(retracted) == 2
    assert first["output"][0]["id"] in retracted
    third = await create_response(api, "three", previous_response_id=second["id"])
    assert third["conversation"]["id"] == conversation_id
    questions = [content for role, content in sent_messages(provider.requests[-1]) if role == "user"]
    assert questions == ["two", "three"]
    for response in (third, second):
        await delete(api, response["id"])
    assert isinstance(log.events(conversation_id)[-1], ConversationDeleted)


async def test_a_listed_conversation_keeps_the_items_of_a_deleted_response(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    response = await create_response(api, "one", conversation=conversation_id)
    await delete(api, response["id"])
    assert isinstance(log.events(conversation_id)[-1], ReplyDeleted)
    await create_response(api, "two", conversation=conversation_id)
    assert ("user", "one") in sent_messages(provider.requests[-1])


async def test_a_chain_with_an_item_of_a_client_outlives_its_only_response(api: httpx.AsyncClient, log: Log) -> None:
    response = await create_response(api, "one")
    conversation_id = response["conversation"]["id"]
    items = {"items": [{"type": "message", "role": "user", "content": "by hand"}]}
    assert (await api.post(f"/v1/conversations/{conversation_id}/items", json=items)).status_code == 200
    await delete(api, response["id"])
    assert isinstance(log.events(conversation_id)[-1], ItemRetracted)


class Endless:
    """Streams a word, and then spaces until the store disconnects or `may_end` is set."""

    def __init__(self) -> None:
        self.streaming, self.may_end = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("secret")
        self.streaming.set()
        while not self.may_end.wait(0.02):
            exchange.text_chunk(" ")


@pytest.mark.parametrize("background", [False, True])
async def test_a_running_response_is_stopped_and_deleted(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, settings: Settings, background: bool
) -> None:
    provider.script = endless = Endless()
    conversation_id = await create_conversation(api)
    body = {"input": "hi", "conversation": conversation_id, "stream": True, "background": background}
    streaming = asyncio.create_task(api.post("/v1/responses", json=body))
    try:
        await asyncio.to_thread(endless.streaming.wait, 10)
        [(response_id,)] = log.rows("SELECT response_id FROM responses")
        await delete(api, response_id)
        answer = await asyncio.wait_for(streaming, 4)
        await asyncio.to_thread(provider.disconnected.wait, 10)
    finally:
        endless.may_end.set()
    assert events_of(answer)[-1]["type"] == "error"
    assert [type(event) for event in log.events(conversation_id)][-2:] == [ReplyCancelled, ReplyDeleted]
    assert "secret" not in str(log.events(conversation_id))
    assert log.rows("SELECT running FROM responses") == [(False,)]
    provider.script = lambda exchange: exchange.stream_text("fine")
    assert (await create_response(api, "next", conversation=conversation_id))["status"] == "completed"


async def test_the_live_events_of_a_deleted_response_are_removed(
    api: httpx.AsyncClient, settings: Settings, provider: ScriptedProvider
) -> None:
    response = await create_response(api, "one")
    async with Redis.from_url(settings.redis_url) as redis:
        key = stream_key(response["id"])
        async with asyncio.timeout(10):
            while not await redis.exists(key):  # noqa: ASYNC110 - Redis is written after the answer
                await asyncio.sleep(0.01)
        await delete(api, response["id"])
        assert await redis.exists(key) == 0


async def test_a_response_that_may_complete_meanwhile_is_deleted_with_its_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    answers = await asyncio.gather(*(post_response(api, f"{n}", background=True) for n in range(8)))
    ids = [answer.json()["id"] for answer in answers]
    await asyncio.gather(*(delete(api, response_id) for response_id in ids))
    conversations = [answer.json()["conversation"]["id"] for answer in answers]

    def all_deleted() -> bool | None:
        ends = [log.events(conversation_id)[-1] for conversation_id in conversations]
        return all(isinstance(end, ConversationDeleted) for end in ends) or None

    await eventually(all_deleted)
