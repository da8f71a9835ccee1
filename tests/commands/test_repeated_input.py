"""If a request's input repeats items of the conversation, only the new items are added."""

import asyncio
from typing import Any

import httpx
import pytest

from domain.events import ItemAppended, ReplyRequested
from domain.items import from_stored
from tests.commands.api_client import create_conversation, create_response, error_of, events_of, message, post_response
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 400_000}


def calls(*call_ids: str) -> Any:
    """A script that answers with calls."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for index, call_id in enumerate(call_ids):
            function = {"name": "look", "arguments": "{}"}
            exchange.delta(tool_calls=[{"index": index, "id": call_id, "type": "function", "function": function}])
        exchange.text_chunk(finish_reason="tool_calls")
        exchange.end_stream()

    return script


def output(call_id: str, text: str = "rain") -> dict[str, str]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def sent(provider: ScriptedProvider) -> list[str]:
    """The messages of the last request: role, and text or call id."""
    return [
        f"{message['role']} {message.get('tool_call_id') or message['content'] or message['tool_calls'][0]['id']}"
        for message in provider.requests[-1]["messages"]
    ]


def taken(log: Log, conversation_id: str) -> list[str]:
    """The call ids or texts of the last recorded input."""
    requested = [event for event in log.events(conversation_id) if isinstance(event, ReplyRequested)]
    items = [from_stored(stored.item) for stored in requested[-1].input]
    return [item.get("call_id") or item["content"] for item in items]


@pytest.mark.parametrize("way", ["conversation", "previous_response_id"])
async def test_outputs_of_answered_calls_are_not_added_again(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, way: str
) -> None:
    working = provider.script
    provider.script = calls("a")
    start = {"conversation": await create_conversation(api)} if way == "conversation" else {}
    first = await create_response(api, "Weather?", **start)
    conversation_id = first["conversation"]["id"]

    def continued(response: dict[str, Any]) -> dict[str, Any]:
        return {way: conversation_id if way == "conversation" else response["id"]}

    provider.script = calls("b")
    second = await create_response(api, [output("a")], **continued(first))
    provider.script = working
    request = [message("Weather?"), output("a", "other"), output("b")]
    counted = await api.post("/v1/responses/input_tokens", json={"input": request, **continued(second)})
    alone = await api.post("/v1/responses/input_tokens", json={"input": [output("b")], **continued(second)})
    assert counted.json() == alone.json()
    third = await create_response(api, request, **continued(second))
    assert sent(provider) == ["user Weather?", "assistant a", "tool a", "assistant b", "tool b"]
    assert provider.requests[-1]["messages"][2]["content"] == "rain"
    assert taken(log, conversation_id) == ["b"]
    assert [event.depth for event in log.events(conversation_id) if isinstance(event, ItemAppended)] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    # A second "yes" is added.
    fourth = await create_response(api, "yes", **continued(third))
    fifth = await create_response(api, "yes", **continued(fourth))
    await create_response(api, [*request, message("yes")], **continued(fifth))
    assert sent(provider)[6:] == ["user yes", "assistant Hello, world!"] * 2 + ["user yes"]
    assert taken(log, conversation_id) == ["yes"]
    before = log.count()
    refused = await post_response(api, [message("Weather?"), output("a")], **continued(fifth))
    assert error_of(refused) == (400, "input_already_in_conversation", "input")
    refused = await post_response(api, [output("a"), output("unknown")], **continued(fifth))
    assert error_of(refused) == (400, None, "input")
    assert "unknown" in refused.json()["error"]["message"]
    assert log.count() == before


async def test_old_items_are_recognised_even_outside_the_window(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api, context_policy={"budget": 300})
    path = f"/v1/conversations/{conversation_id}/items"
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    await api.post(path, json={"items": [message("Weather?"), call, output("a")]})
    for _ in range(20):
        await api.post(path, json={"items": [message("word " * 30), message("no", "assistant")] * 10})
    await create_response(api, [message("Weather?"), output("a"), message("and now?")], conversation=conversation_id)
    assert taken(log, conversation_id) == ["and now?"]
    assert "tool a" not in sent(provider)


async def test_a_repeated_request_with_a_key_still_gets_the_first_answer(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, calls("a")
    first = await create_response(api, "Weather?")
    provider.script = working
    request = {"input": [message("Weather?"), output("a")], "previous_response_id": first["id"]}
    key = {"Idempotency-Key": "once"}
    answers = [await api.post("/v1/responses", json=request, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert len(provider.requests) == 2


async def test_after_a_failed_reply_the_same_input_can_be_sent_again(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, calls("a")
    first = await create_response(api, "Weather?")
    provider.script = lambda exchange: exchange.begin_stream()
    failed = events_of(await post_response(api, [output("a")], previous_response_id=first["id"], stream=True))
    provider.script = working
    for previous in (failed[-1]["response"]["id"], first["id"]):
        await create_response(api, [output("a")], previous_response_id=previous)
        assert sent(provider) == ["user Weather?", "assistant a", "tool a"]


async def test_items_that_a_client_appends_are_stored_even_if_repeated(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    items = [message("Weather?"), call, output("a")]
    for _ in range(2):
        answer = await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
        assert len(answer.json()["data"]) == 3
    assert log.topics(conversation_id).count("item.appended") == 6


async def test_equal_requests_at_once_add_a_reference_and_an_output_once(api: httpx.AsyncClient, log: Log) -> None:
    [elsewhere] = await added(api, await create_conversation(api), message("elsewhere"))
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    request = [{"type": "item_reference", "id": elsewhere}, output("a"), message("go")]
    for _ in range(8):
        conversation_id = await create_conversation(api)
        await added(api, conversation_id, message("Weather?"), call)
        answers = await asyncio.gather(*(post_response(api, request, conversation=conversation_id) for _ in range(6)))
        codes = [answer.json()["error"]["code"] for answer in answers if answer.status_code != 200]
        assert set(codes) <= {"conversation_locked", "conversation_changed"}  # SDKs retry both
        items = [from_stored(event.item) for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
        assert [item["type"] for item in items].count("function_call_output") == 1
        assert [item.get("content") for item in items].count("elsewhere") == 1
        assert [item.get("content") for item in items].count("go") == 6 - len(codes)


async def added(api: httpx.AsyncClient, conversation_id: str, *items: dict[str, Any]) -> list[str]:
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
    return [item["id"] for item in answer.json()["data"]]
