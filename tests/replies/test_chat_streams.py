"""Chat completions over HTTP, from providers of both APIs."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from infrastructure.settings import Settings
from tests.log import Log
from tests.replies.answer_scripts import deltas, items, message, reasoning
from tests.replies.both_apis import BothApis, open_both_apis, served
from tests.scripted_provider import Exchange, Script, ScriptedProvider, scripted_provider

ASK: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "When?"}]}
TEXT = {"type": "output_text", "text": "Well: now. ", "annotations": []}
REFUSAL = {"type": "refusal", "refusal": "I cannot."}
CALL_ITEM = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at":"sky"}'}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
OLD_CALL = {"name": "look", "arguments": '{"at":"sky"}'}


def call_deltas(*, index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """A call in three chunks, as OpenAI streams it."""
    begun = {**call, "function": {"name": call["function"]["name"], "arguments": ""}, "index": index}
    arguments = call["function"]["arguments"]
    rest = [{"index": index, "function": {"arguments": text}} for text in (arguments[:5], arguments[5:])]
    return [{"tool_calls": [part]} for part in (begun, *rest)]


CHAT: list[tuple[Script, dict[str, Any]]] = [
    (deltas({"content": "Well: "}, {"content": "now. "}), {"content": "Well: now. "}),
    (deltas(), {"content": ""}),
    (deltas({"refusal": "I "}, {"refusal": "cannot."}), {"content": None, "refusal": "I cannot."}),
    (
        deltas({"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "Well: now. "}),
        {"content": "Well: now. ", "reasoning_content": "hm"},
    ),
    (
        deltas({"content": "Well: now. "}, *call_deltas(index=0, call=CALL)),
        {"content": "Well: now. ", "tool_calls": [CALL]},
    ),
    (
        deltas(*call_deltas(index=0, call=CALL), *call_deltas(index=1, call={**CALL, "id": "call_2"})),
        {"content": None, "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
    ),
    (
        deltas(
            *({"function_call": part} for part in ({**OLD_CALL, "arguments": ""}, {"arguments": OLD_CALL["arguments"]}))
        ),
        {"content": None, "function_call": OLD_CALL},
    ),
]
RESPONSES: list[tuple[Script, dict[str, Any]]] = [
    (items(reasoning("hm"), message(TEXT)), {"content": "Well: now. ", "reasoning_content": "hm"}),
    (items(reasoning(summary=("h", "m")), message(TEXT)), {"content": "Well: now. ", "reasoning_content": "h\n\nm"}),
    (items(message(REFUSAL)), {"content": None, "refusal": "I cannot."}),
    (items(message(TEXT), CALL_ITEM), {"content": "Well: now. ", "tool_calls": [CALL]}),
]


class Weather(BaseModel):
    degrees: int


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(params=["chat", "responses"])
async def store(
    request: pytest.FixtureRequest, settings: Settings, provider: ScriptedProvider
) -> AsyncIterator[tuple[BothApis, str]]:
    changed = {"openai_base_url": provider.url, "model_api": request.param}
    async with open_both_apis(settings.model_copy(update=changed)) as both:
        yield both, request.param


def fields_of(completion: Any) -> dict[str, Any]:
    """The fields of the message, without what the SDK adds."""
    sent = completion.choices[0].message.to_dict()
    for call in sent.get("tool_calls") or ():
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    found = {name: value for name, value in sent.items() if value and name not in ("role", "parsed")}
    return {"content": None if found.keys() & {"tool_calls", "function_call", "refusal"} else "", **found}


async def test_the_sdk_reads_each_answer_whole_and_streamed(
    store: tuple[BothApis, str], provider: ScriptedProvider
) -> None:
    both, provider_api = store
    for script, expected in CHAT if provider_api == "chat" else RESPONSES:
        provider.script = script
        complete = await both.sdk.chat.completions.create(**ASK)
        assert fields_of(complete) == expected
        async with both.sdk.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_completion()
        assert fields_of(streamed) == expected
        assert streamed.choices[0].finish_reason == complete.choices[0].finish_reason
        assert streamed.usage is not None
        assert streamed.usage.total_tokens > 0
        request: dict[str, Any] = {"json": {**ASK, "stream": True}, "headers": {"idempotency-key": repr(expected)}}
        first, repeated = [await both.http.post("/v1/chat/completions", **request) for _ in range(2)]
        assert first.content == repeated.content
        await both.projector.catch_up()
        response_id = complete.id.replace("chatcmpl-", "resp_")
        response = await both.sdk.responses.retrieve(response_id)
        assert response.output_text == (expected["content"] or "")
        assert "chat" not in response.to_dict()
    text = '{"degrees": 3}'
    provider.script = deltas({"content": text}) if provider_api == "chat" else items(message({**TEXT, "text": text}))
    async with both.sdk.chat.completions.stream(**ASK, response_format=Weather) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.parsed == Weather(degrees=3)
    sent = provider.requests[-1]
    assert (sent["response_format"] if provider_api == "chat" else sent["text"]["format"])["type"] == "json_schema"


async def test_messages_are_sent_to_the_provider_unchanged_or_are_refused(
    store: tuple[BothApis, str], provider: ScriptedProvider, log: Log
) -> None:
    both, provider_api = store
    provider.script = deltas({"content": "Hi"}) if provider_api == "chat" else items(message(TEXT))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"content": "When?", "role": "user", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}], "refusal": None, "mood": 1},
        {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
    ]
    own = {"metadata": {"a": "b"}, "store": True, "model": "scripted"}
    parameters = {"temperature": 1, "top_p": 1.0, "seed": 7, "stop": ["\n"], "top_k": 40, "user": None, "tools": [TOOL]}
    answer = await both.http.post("/v1/chat/completions", json={"messages": messages, **own, **parameters})
    if provider_api == "responses":
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "seed"
        assert (provider.requests, log.count()) == ([], 0)
        return
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"] == {"a": "b"}
    expected = {
        "model": "scripted",
        "messages": messages,
        **parameters,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert json.dumps(provider.requests[-1], sort_keys=True) == json.dumps(expected, sort_keys=True)


async def test_a_request_in_a_conversation_shows_the_model_earlier_messages(
    store: tuple[BothApis, str], provider: ScriptedProvider
) -> None:
    both, provider_api = store
    provider.script = deltas({"content": "Hi"}) if provider_api == "chat" else items(message(TEXT))
    conversation_id = (await both.http.post("/v1/conversations", json={})).json()["id"]
    first = [{"role": "system", "content": "Be brief."}, *ASK["messages"]]
    for conversation, messages, stream in (
        (conversation_id, first, False),
        ({"id": conversation_id}, [{"role": "user", "content": "Why?"}], True),
    ):
        body = {"messages": messages, "conversation": conversation, "stream": stream, "max_tokens": 9}
        answer = await both.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-conversation-id"] == conversation_id
    sent = provider.requests[-1]
    shown = [
        entry["content"] for entry in sent["messages" if provider_api == "chat" else "input"] if entry["role"] == "user"
    ]
    assert shown == ["When?", "Why?"]
    assert sent["max_tokens" if provider_api == "chat" else "max_output_tokens"] == 9
    refused = await both.http.post("/v1/chat/completions", json={**ASK, "conversation": conversation_id, "seed": 7})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")


async def test_a_wrong_request_stores_and_sends_nothing(
    store: tuple[BothApis, str], provider: ScriptedProvider, log: Log
) -> None:
    both, _ = store
    user = ASK["messages"][0]
    for messages, status, param in (
        ([user, {"role": "tool", "tool_call_id": "call_1", "content": "blue"}], 400, "messages[1].tool_call_id"),
        ([], 400, "messages"),
        ([user] * 5_001, 400, "messages"),
        ([user, {"role": "user", "content": "a" * 2**20}], 413, "messages[1]"),
        ([{"role": "user", "content": "a" * 33 * 2**20}], 413, None),
    ):
        answer = await both.http.post("/v1/chat/completions", json={"messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert (provider.requests, log.count()) == ([], 0)


async def test_a_failed_reply_is_an_error_with_or_without_a_stream(
    store: tuple[BothApis, str], provider: ScriptedProvider
) -> None:
    both, provider_api = store

    def breaks_off(exchange: Exchange) -> None:
        exchange.begin_stream()
        if provider_api == "chat":
            exchange.text_chunk("Well")
        else:
            exchange.event("response.output_item.added", output_index=0, item={**message(), "content": []})
            exchange.event("response.output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="Well")

    provider.script = breaks_off
    with pytest.raises(openai.APIStatusError) as failed:
        await both.sdk.chat.completions.create(**ASK)
    assert failed.value.status_code == 502
    chunks = await both.sdk.chat.completions.create(**ASK, stream=True)
    assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "Well"]
    with pytest.raises(openai.APIError) as broken:
        await anext(chunks)
    assert broken.value.code == failed.value.code
    assert isinstance(broken.value.body, dict)
    await both.projector.catch_up()
    response = await both.sdk.responses.retrieve(broken.value.body["response_id"])
    assert (response.status, response.output_text) == ("failed", "Well")


async def test_a_client_that_disconnects_from_a_stream_stops_the_reply(
    store: tuple[BothApis, str], provider: ScriptedProvider
) -> None:
    both, provider_api = store

    is_asked = threading.Event()

    def never_ends(exchange: Exchange) -> None:
        exchange.begin_stream()
        is_asked.set()
        while True:
            if provider_api == "chat":
                exchange.text_chunk("Well")
            else:
                exchange.event("response.in_progress")
            provider.disconnected.wait(0.05)

    provider.script = never_ends
    async with (
        served(both.app) as client,
        client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer,
    ):
        assert answer.status_code == 200
        assert await asyncio.to_thread(is_asked.wait, 10)
        if provider_api == "chat":
            lines = answer.aiter_lines()
            assert json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert await asyncio.to_thread(provider.disconnected.wait, 10)
