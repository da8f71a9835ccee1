"""A repeat with the same idempotency key gets the reply of the first request."""

import asyncio
from typing import Any

import httpx
import pytest

from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, events_of, open_api
from tests.commands.provider_scripts import silence
from tests.log import Log
from tests.scripted_provider import ScriptedProvider, SlowModels

WITH_PROVIDER = {"model_timeout": 2.5, "model_window": 2_000}


async def test_a_repeat_gets_the_first_answer_after_the_conversation_has_ended(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    key = {"Idempotency-Key": "ask-1"}
    body = {"input": "hi", "conversation": conversation_id}
    answers = await asyncio.gather(*(api.post("/v1/responses", json=body, headers=key) for _ in range(4)))
    await api.post(f"/v1/conversations/{conversation_id}/end")
    answers.append(await api.post("/v1/responses", json=body, headers=key))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["output"][0]["id"] for answer in answers}) == 1
    first = next(answer for answer in answers if "idempotent-replayed" not in answer.headers)
    repeats = [answer for answer in answers if "idempotent-replayed" in answer.headers]
    assert len(repeats) == 4
    assert all(answer.json() == first.json() and answer.headers["etag"] == first.headers["etag"] for answer in repeats)
    assert len(provider.requests) == 1
    different = await api.post("/v1/responses", json={**body, "input": "other"}, headers=key)
    assert different.status_code == 422


async def test_a_repeated_stream_has_the_same_events(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(api)
    body = {"input": "hi", "conversation": conversation_id, "stream": True}
    key = {"Idempotency-Key": "ask-2"}
    first = events_of(await api.post("/v1/responses", json=body, headers=key))
    repeated = events_of(await api.post("/v1/responses", json=body, headers=key))
    assert repeated == first
    assert len(provider.requests) == 1


async def test_a_repeat_of_a_failed_reply_fails_in_the_same_way(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    provider.script = silence
    answers = [
        await api.post("/v1/responses", json={"input": "hi"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [504, 504]
    assert answers[0].json() == answers[1].json()
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
    assert len(provider.requests) == 1


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


@pytest.mark.parametrize(
    ("request_input", "headers"),
    [("hi", {"If-Match": '"2"'}), ([RESULT], {})],
    ids=["with If-Match", "with a tool output"],
)
async def test_a_repeat_that_looked_up_its_key_too_early_gets_the_same_answer(
    settings: Settings,
    api: httpx.AsyncClient,
    provider: ScriptedProvider,
    request_input: Any,
    headers: dict[str, str],
) -> None:
    conversation = await create_conversation(api, items=[CALL])
    headers = {"Idempotency-Key": "once", **headers}
    body = {"input": request_input, "conversation": conversation, "model": "scripted"}
    await create_response(api, "warm up", model="scripted")
    provider.models = slow = SlowModels("scripted")
    async with open_api(settings.model_copy(update={"openai_base_url": provider.url, **WITH_PROVIDER})) as second_api:
        # The repeat has looked up its key, but not yet its conversation.
        repeat = asyncio.create_task(second_api.post("/v1/responses", json=body, headers=headers))
        await create_response(api, "meanwhile", model="scripted")
        first = await api.post("/v1/responses", json=body, headers=headers)
        slow.released.set()
        second = await repeat
    assert (first.status_code, second.status_code) == (200, 200), (first.text, second.text)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
