"""A reply as a chat completion, whole and in chunks. The official SDK reads the same message from both."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given, settings
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from context.rendering import TRANSCRIPT_CHAT
from context.transcripts.chat_messages import answer_message
from domain.events import Usage
from domain.items import Item, from_stored, output_item
from infrastructure.http.errors import ApiError
from replies import stream_events
from replies.chat_chunks import chat_chunks
from replies.chat_completion import chat_completion
from replies.output import Output
from replies.provider.chat import ChatAnswer
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart
from replies.response_object import response_object
from tests.replies.random_answers import answers

RESPONSE = "resp_" + "0" * 32
COMPLETION = "chatcmpl-" + "0" * 32
USAGE = Usage(input_tokens=30, output_tokens=12, cached_tokens=5, reasoning_tokens=3, cache_write_tokens=7)
MESSAGE = ItemStarted({"type": "message", "role": "assistant"})
REASONING = ItemStarted({"type": "reasoning"})
LOOK = ItemStarted({"type": "function_call", "call_id": "call_1", "name": "look"})
FIND = ItemStarted({"type": "function_call", "call_id": "call_2", "name": "find"})
WRITE = ItemStarted({"type": "custom_tool_call", "call_id": "call_3", "name": "write"})
OLD = ItemStarted({"type": "function_call", "call_id": "function_call_look", "name": "look"})
SEARCH = ItemStarted({"type": "web_search_call", "status": "completed"})
CITED = {"type": "url_citation", "start_index": 0, "end_index": 4, "title": "Oslo", "url": "https://example.com/oslo"}

TEXT: list[StreamPart] = [MESSAGE, ItemDelta("When "), ItemDelta("it is warm.")]
CALLS: list[StreamPart] = [
    MESSAGE,
    ItemDelta("I look."),
    LOOK,
    ItemDelta('{"at"'),
    ItemDelta(':"sky"}'),
    FIND,
    ItemDelta("{}"),
]


def response_of(output: Sequence[Item], *, status: Any = "completed", **fields: Any) -> dict[str, Any]:
    encoded = response_object(
        **{
            "response_id": RESPONSE,
            "conversation_id": None,
            "created_at": 1767225600.9,
            "status": status,
            "model": "m",
            "output": [msgspec.json.encode(item) for item in output],
            "parameters": {"metadata": {"a": "b"}, "chat": {}},
            "renderer": TRANSCRIPT_CHAT,
            "usage": None if status == "in_progress" else USAGE,
            "error": None,
            "finish_reason": "stop",
            **fields,
        }
    )
    decoded: dict[str, Any] = msgspec.json.decode(encoded)
    return decoded


class Reply:
    """The Response, and the events of its stream."""

    def __init__(self, parts: Sequence[StreamPart], *, status: Any = "completed", **fields: Any) -> None:
        output = Output()
        events = [event for part in parts for event in output.add(part)]
        events += output.finish("completed" if status == "completed" else "incomplete")
        items = [output_item(item.item_id, from_stored(item.item)) for item in output.items()]
        self.response = response_of(items, status=status, **fields)
        begun = response_of([], status="in_progress", finish_reason=None)
        ended = stream_events.ended(status, msgspec.json.encode(self.response))
        self.events = [*stream_events.opened(msgspec.json.encode(begun), None), *events, ended]

    def encoded(self) -> bytes:
        return b"".join(stream_events.encode(event, number) for number, event in enumerate(self.events))


async def slices_of(encoded: bytes, size: int = 40) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(encoded), size):
        yield encoded[start : start + size]


async def chunk_data(encoded: bytes, *, include_usage: bool = False) -> list[str]:
    stream = b"".join([chunk async for chunk in chat_chunks(slices_of(encoded), include_usage=include_usage)]).decode()
    assert stream.endswith("\n\n")
    blocks = stream.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


async def chunks_of(reply: Reply, *, include_usage: bool = False) -> list[dict[str, Any]]:
    *chunks, done = await chunk_data(reply.encoded(), include_usage=include_usage)
    assert done == "[DONE]"
    # The SDK's type has no calls of custom tools.
    assert all(ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks if '"custom"' not in chunk)
    return [msgspec.json.decode(chunk) for chunk in chunks]


def deltas(chunks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks]


def plain(completion: Any) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(completion)
    return value


def test_a_completed_reply_has_every_field_of_the_official_chat_completion() -> None:
    completion = plain(chat_completion(Reply(TEXT).response))
    assert completion == {
        "object": "chat.completion",
        "id": COMPLETION,
        "created": 1767225600,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "When it is warm.",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 30,
            "completion_tokens": 12,
            "total_tokens": 42,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 7, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 3,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": None,
        "metadata": {"a": "b"},
    }
    assert ChatCompletion.model_validate(completion, strict=True).to_dict() == completion


def test_calls_reasoning_and_refusals_are_fields_of_the_message() -> None:
    parts = [
        REASONING,
        ItemDelta("Hm."),
        PartStarted("summary_text"),
        ItemDelta("Thought."),
        *CALLS,
        WRITE,
        ItemDelta("a"),
    ]
    choice = plain(chat_completion(Reply([*parts, SEARCH]).response))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "I look.",
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "find", "arguments": "{}"}},
            {"id": "call_3", "type": "custom", "custom": {"name": "write", "input": "a"}},
        ],
        "reasoning_content": "Hm.\n\nThought.",
    }
    refused = plain(chat_completion(Reply([MESSAGE, PartStarted("refusal"), ItemDelta("No.")]).response))
    message = refused["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")
    only_call = plain(chat_completion(Reply([LOOK, ItemDelta("{}")]).response))["choices"][0]["message"]
    assert only_call["content"] is None
    old = plain(chat_completion(Reply([OLD, ItemDelta("{}")]).response))["choices"][0]
    assert old["finish_reason"] == "function_call"
    assert old["message"]["function_call"] == {"name": "look", "arguments": "{}"}


def test_url_citations_count_from_the_beginning_of_the_whole_text() -> None:
    parts = [{"type": "output_text", "text": "Oslo", "annotations": [CITED]}] * 2
    other = {"type": "file_citation", "file_id": "f", "index": 0, "filename": "a"}
    message = {
        "type": "message",
        "role": "assistant",
        "content": [*parts, {"type": "output_text", "text": "!", "annotations": [other]}],
    }
    completion = plain(chat_completion(response_of([message])))
    assert completion["choices"][0]["message"]["annotations"] == [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": start + 4,
                "title": CITED["title"],
                "url": CITED["url"],
            },
        }
        for start in (0, 4)
    ]


@pytest.mark.parametrize(
    ("status", "provider_reason", "expected"),
    [
        ("completed", "stop", "stop"),
        ("incomplete", "length", "length"),
        ("incomplete", "content_filter", "content_filter"),
        ("incomplete", None, "length"),
        ("cancelled", None, "length"),
    ],
)
async def test_the_finish_reason_says_why_the_answer_ended(status: Any, provider_reason: Any, expected: str) -> None:
    reply = Reply(TEXT, status=status, finish_reason=provider_reason)
    assert chat_completion(reply.response).choices[0].finish_reason == expected
    assert (await chunks_of(reply))[-1]["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed"])
def test_a_reply_without_an_answer_has_no_choices(status: Any) -> None:
    error = {"code": "provider_error", "message": "It failed."} if status == "failed" else None
    completion = chat_completion(response_of([], status=status, error=error, usage=None))
    assert (completion.choices, completion.usage) == ([], None)


def test_deleted_output_items_leave_an_empty_answer() -> None:
    message: Item = {"id": "m", "type": "message", "role": "assistant", "content": []}
    items: list[Item] = [{"id": "fc_1", "type": "function_call"}, message]
    [choice] = chat_completion(response_of(items)).choices
    assert (choice.message.content, choice.finish_reason) == ("", "stop")


async def test_chunks_begin_with_the_role_and_end_with_the_finish_reason() -> None:
    chunks = await chunks_of(Reply(TEXT))
    assert deltas(chunks) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "When "},
        {"content": "it is warm."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {(COMPLETION, 1767225600, "m")}
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_call_begins_with_its_name_and_its_arguments_follow() -> None:
    chunks = await chunks_of(Reply([REASONING, ItemDelta("Hm."), *CALLS, WRITE, ItemDone({"input": "a"}), SEARCH]))
    assert deltas(chunks)[1:-1] == [
        {"reasoning_content": "Hm."},
        {"content": "I look."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"at"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ':"sky"}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "find", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 2, "id": "call_3", "type": "custom", "custom": {"name": "write", "input": ""}}]},
        {"tool_calls": [{"index": 2, "custom": {"input": "a"}}]},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    old = await chunks_of(Reply([OLD, ItemDelta("{}")]))
    assert deltas(old) == [
        {"role": "assistant", "content": None, "refusal": None},
        {"function_call": {"name": "look", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        {},
    ]


async def test_an_answer_without_text_still_has_a_role() -> None:
    assert deltas(await chunks_of(Reply([]))) == [{"role": "assistant", "content": "", "refusal": None}, {}]


async def test_with_include_usage_the_last_chunk_has_the_usage() -> None:
    reply = Reply(TEXT)
    *others, last = await chunks_of(reply, include_usage=True)
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"] == plain(chat_completion(reply.response))["usage"]


async def test_chunks_end_with_an_error_if_the_reply_fails() -> None:
    failed = Reply(TEXT, status="failed", error={"code": "provider_error", "message": "It failed."})
    *chunks, error = map(msgspec.json.decode, await chunk_data(failed.encoded()))
    assert len(chunks) == 3
    assert error == {
        "error": {
            "message": "It failed.",
            "type": "server_error",
            "param": None,
            "code": "provider_error",
            "response_id": RESPONSE,
        }
    }
    lost = stream_events.failed(ApiError(503, "No store.", code="event_store_unavailable"))
    [data] = await chunk_data(stream_events.encode(lost, 0))
    assert msgspec.json.decode(data)["error"]["code"] == "event_store_unavailable"


async def test_closing_the_chunks_closes_the_events_of_the_reply() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield Reply(TEXT).encoded()
        finally:
            closed.set()

    chunks = chat_chunks(events(), include_usage=False)
    await anext(chunks)
    await chunks.aclose()
    assert closed.is_set()


@settings(max_examples=60, deadline=None)
@given(answers)
def test_the_chunks_of_any_answer_add_up_to_its_message(parts: list[StreamPart]) -> None:
    reply = Reply(parts)
    streamed: dict[str, Any] = {}
    for delta in deltas(asyncio.run(chunks_of(reply))):
        for name, value in delta.items():
            if name == "tool_calls":
                [call] = value
                calls = streamed.setdefault(name, [])
                assert call["index"] <= len(calls)
                if call["index"] == len(calls):
                    calls.append({key: inner for key, inner in call.items() if key != "index"})
                else:
                    for kind in call.keys() & {"function", "custom"}:
                        for key, text in call[kind].items():
                            calls[call["index"]][kind][key] += text
            elif isinstance(value, str) and name != "role":
                streamed[name] = (streamed.get(name) or "") + value
            else:
                streamed[name] = value
    [choice] = chat_completion(reply.response).choices
    message = plain(choice.message)
    assert {**streamed, "content": streamed["content"] or None, "annotations": streamed.get("annotations", [])} == {
        **message,
        "content": message["content"] or None,
    }


class Weather(BaseModel):
    temperature: int


def client_of(reply: Reply) -> openai.AsyncOpenAI:
    """A client of the SDK. Each request gets this reply."""

    async def answer(request: Any) -> Response:
        body = await request.json()
        if body.get("stream"):
            options = body.get("stream_options") or {}
            chunks = chat_chunks(slices_of(reply.encoded()), include_usage=bool(options.get("include_usage")))
            return StreamingResponse(chunks, media_type="text/event-stream")
        return Response(msgspec.json.encode(chat_completion(reply.response)), media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    return openai.AsyncOpenAI(base_url="http://store/v1", api_key="-", http_client=transport, max_retries=0)


@pytest.mark.parametrize(
    "parts",
    [
        TEXT,
        [],
        CALLS,
        [REASONING, ItemDelta("Hm."), ItemDelta("So."), REASONING, ItemDelta("And."), *TEXT],
        [MESSAGE, ItemDelta("Well."), PartStarted("refusal"), ItemDelta("No.")],
        [LOOK, ItemDelta("{}"), MESSAGE, ItemDelta("I looked.")],
        [OLD, ItemDelta('{"a":'), ItemDelta("1}")],
        [MESSAGE, ItemDelta("a\u2028b\nc\r\n")],
    ],
)
async def test_the_sdk_gets_the_same_message_with_and_without_streaming(
    parts: list[StreamPart],
) -> None:
    reply = Reply(parts)
    ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "When?"}]}
    client = client_of(reply)
    complete = await client.chat.completions.create(**ask)
    async with client.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_completion()
    assert streamed.usage == complete.usage
    assert streamed.choices[0].finish_reason == complete.choices[0].finish_reason
    assert essence(streamed.choices[0].message) == essence(complete.choices[0].message)


def essence(message: Any) -> dict[str, Any]:
    """The fields that must be equal in the complete and in the streamed message."""
    fields = message.to_dict()
    calls = fields.get("tool_calls") or ()
    return {
        "content": fields.get("content") or None,
        "refusal": fields.get("refusal"),
        "function_call": fields.get("function_call"),
        "reasoning_content": fields.get("reasoning_content"),
        "calls": [
            (call["id"], call["type"], call["function"]["name"], call["function"]["arguments"]) for call in calls
        ],
    }


async def test_the_sdk_parses_structured_answers_and_raises_on_errors() -> None:
    ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "When?"}]}
    client = client_of(Reply([MESSAGE, ItemDelta('{"temper'), ItemDelta('ature": 3}')]))
    async with client.chat.completions.stream(**ask, response_format=Weather) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.parsed == Weather(temperature=3)
    failed = client_of(Reply(TEXT, status="failed", error={"code": "provider_error", "message": "It failed."}))
    with pytest.raises(openai.APIError, match="It failed"):
        async for _ in await failed.chat.completions.create(**ask, stream=True):
            pass


def test_a_deprecated_function_call_of_a_provider_reaches_the_client() -> None:
    answer, output = ChatAnswer(), Output()
    for delta in ({"name": "look"}, {"arguments": '{"at":'}, {"arguments": '"sky"}'}):
        chunk = {"choices": [{"index": 0, "delta": {"function_call": delta}}]}
        for part in answer.parse(msgspec.json.encode(chunk)):
            [*output.add(part)]
    answer.parse(b'{"choices":[{"index":0,"delta":{},"finish_reason":"function_call"}]}')
    for part in answer.finish():
        [*output.add(part)]
    [*output.finish("completed")]
    [item] = [from_stored(stored.item) for stored in output.items()]
    assert answer_message([item]) == {
        "role": "assistant",
        "function_call": {"name": "look", "arguments": '{"at":"sky"}'},
    }
