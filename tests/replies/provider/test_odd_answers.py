"""Answers that differ from what the APIs describe: halves of surrogate pairs, unknown events, parts in any order, a refusal after text.

The store reads such answers too.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from domain.events import Usage
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart
from tests.replies.provider.conftest import MESSAGE, joined, parts_of, write
from tests.scripted_provider import Exchange, ScriptedProvider

HIGH, LOW, LONE = "\ud83d", "\ude42", "\ufffd"
FINISH: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def chunks(*chunks: Any) -> Callable[[Exchange], None]:
    """A script for `/chat/completions`. Each argument is a delta, or a complete chunk if it has `choices`."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for chunk in (*chunks, FINISH):
            exchange.chunk(**(chunk if "choices" in chunk else {"choices": [{"index": 0, "delta": chunk}]}))
        exchange.end_stream()

    return script


def events(*events: tuple[str, dict[str, Any]]) -> Callable[[Exchange], None]:
    """A script for `/responses` that sends exactly these events."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for kind, fields in events:
            exchange.event(f"response.{kind}", **fields)

    return script


def text_of(parts: list[StreamPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ItemDelta))


def added(item: dict[str, Any], index: int = 0) -> tuple[str, dict[str, Any]]:
    return "output_item.added", {"output_index": index, "item": {"id": f"i{index}", **item}}


def ended(item: dict[str, Any], index: int = 0) -> tuple[str, dict[str, Any]]:
    return "output_item.done", {"output_index": index, "item": {"id": f"i{index}", **item}}


def delta(kind: str, text: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"{kind}.delta", {"output_index": 0, "item_id": "i0", "delta": text, **fields}


COMPLETED = ("completed", {"response": {"status": "completed"}})


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a" + HIGH, LOW + "b"], "a🙂b"),
        ([HIGH, LOW], "🙂"),
        ([HIGH + LOW], "🙂"),
        ([HIGH, HIGH, LOW, LOW], LONE + "🙂" + LONE),
        (["a", HIGH], "a" + LONE),
        ([LOW, "a"], LONE + "a"),
        (["a" + HIGH + "b"], "a" + LONE + "b"),
        ([HIGH + "\0", "", LOW], "🙂"),
    ],
)
async def test_halves_of_surrogate_pairs_are_joined_and_lone_halves_replaced(
    chat: ModelProvider, responses: ModelProvider, provider: ScriptedProvider, texts: list[str], expected: str
) -> None:
    for field, item_type in (("content", "message"), ("refusal", "message"), ("reasoning", "reasoning")):
        provider.script = chunks(*({field: text} for text in texts))
        parts = await parts_of(chat)
        assert text_of(parts) == expected
        assert isinstance(parts[0], ItemStarted)
        assert parts[0].item["type"] == item_type
    provider.script = chunks(
        *({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}]} for text in texts)
    )
    assert text_of(await parts_of(chat)) == expected
    complete_text = "".join(texts)
    for kind, item, complete in (
        ("output_text", "message", {"content": [{"type": "output_text", "text": complete_text}]}),
        ("refusal", "message", {"content": [{"type": "refusal", "refusal": complete_text}]}),
        ("reasoning_text", "reasoning", {"content": [{"type": "reasoning_text", "text": complete_text}]}),
        ("reasoning_summary_text", "reasoning", {"summary": [{"type": "summary_text", "text": complete_text}]}),
        ("function_call_arguments", "function_call", {"call_id": "c", "name": "f", "arguments": complete_text}),
    ):
        deltas = [delta(kind, text) for text in texts]
        provider.script = events(
            added({"type": item, "call_id": "c", "name": "f"}), *deltas, ended({"type": item, **complete}), COMPLETED
        )
        assert text_of(await parts_of(responses)) == expected
        provider.script = events(("completed", {"response": {"output": [{"type": item, **complete}]}}))
        assert text_of(await parts_of(responses)) == expected


async def test_halves_of_surrogate_pairs_are_joined_or_replaced_in_other_fields_too(
    chat: ModelProvider, responses: ModelProvider, provider: ScriptedProvider
) -> None:
    call = {"index": 0, "id": "c" + HIGH, "function": {"name": LOW + "f", "arguments": "{}"}}
    custom = {"index": 1, "id": "d", "custom": {"name": "g", "input": HIGH}}
    more = {"index": 1, "custom": {"input": LOW + LOW}}
    provider.script = chunks(
        {"choices": [{"delta": {"tool_calls": [call, custom]}}], "model": "m" + HIGH, LOW: LOW},
        {"tool_calls": [more]},
        {"choices": [], "model": "m" + HIGH, "usage": {HIGH: LOW, "prompt_tokens": 1}},
        {"choices": [], "model": "m" + HIGH},
    )
    parts = await parts_of(chat)
    assert joined(parts) == [
        ({"type": "function_call", "call_id": "c" + LONE, "name": LONE + "f"}, "{}"),
        ({"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "🙂" + LONE}, ""),
    ]
    search = {"type": "web_search_call", "status": "completed", "action": {HIGH: [HIGH + LOW, LOW]}}
    provider.script = events(
        ended({**search, "id": HIGH}),
        ("completed", {"response": {"status": "completed", "model": HIGH, "error": None}}),
    )
    *items, finished = await parts_of(responses)
    assert joined(items) == [({**search, "action": {LONE: ["🙂", LONE]}}, "")]
    assert finished == Finished("stop", None, LONE)


async def test_halves_of_a_surrogate_pair_that_are_encoded_in_utf_8_are_joined_too(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    first, second = ({"choices": [{"delta": {"content": text}}]} for text in ("a" + HIGH, LOW))
    provider.script = write(
        *(
            b"data: " + json.dumps(chunk, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"
            for chunk in (first, second)
        ),
        b"data: " + json.dumps(FINISH).encode() + b"\n\n",
    )
    assert text_of(await parts_of(chat)) == "a🙂"


async def test_a_failure_with_half_a_surrogate_pair_is_reported_like_other_failures(
    chat: ModelProvider, responses: ModelProvider, provider: ScriptedProvider
) -> None:
    for client in (chat, responses):
        provider.script = write(b'data: {"type":"error","error":{"code":"429","message":"\\ud83d"}}\n\n')
        with pytest.raises(Exception, match="rate limit"):
            await parts_of(client)
        provider.script = lambda exchange: exchange.json(400, {"error": {"code": HIGH, "message": LOW}})
        with pytest.raises(Exception, match="status 400"):
            await parts_of(client)


async def test_events_of_unknown_kinds_and_other_choices_change_nothing(
    chat: ModelProvider, responses: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = write(
        b'data: {"object":"ping","choices":null}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"content":"other"}},{"index":0,"delta":{"content":"a","odd":[1]}}]}\n\n',
        b"event: odd\ndata: {}\n\n",
        b"id: 7\nretry: 10\nodd: line\nodd\n\n",
        b'data: {"choices":[{"index":0,"delta":{"reasoning":null,"content":"b"},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{}}]}\n\n',
    )
    assert await parts_of(chat) == [
        ItemStarted(MESSAGE),
        ItemDelta("a"),
        ItemDelta("b"),
        Finished("stop", Usage(input_tokens=1, output_tokens=2)),
    ]
    provider.script = events(
        ("odd", {"item_id": 5, "output_index": "x", "delta": {"text": "x"}, "text": []}),
        ("output_item.added", {"output_index": 3, "item": None}),
        ("reasoning_summary_text.delta", {"delta": "before any item"}),
        ("output_text.done", {"text": "before any item"}),
        added({"type": "message"}),
        delta("output_text", "a", content_index=0),
        delta("reasoning_text", "not of a message"),
        ("content_part.odd", {"output_index": 0, "part": 5}),
        ("output_text.annotation.added", {"output_index": 0, "annotation": {}}),
        ended({"type": "message", "content": "a"}),
        COMPLETED,
    )
    assert await parts_of(responses) == [ItemStarted(MESSAGE), ItemDelta("a"), Finished("stop")]


async def test_the_parts_of_an_item_are_not_mixed(responses: ModelProvider, provider: ScriptedProvider) -> None:
    text, refusal = {"type": "output_text", "text": "Well: "}, {"type": "refusal", "refusal": "no."}
    provider.script = events(
        added({"type": "message"}),
        delta("refusal", "no", content_index=1),
        delta("output_text", "We", content_index=0),
        ("refusal.done", {"output_index": 0, "item_id": "i0", "content_index": 1, "refusal": "no."}),
        ("refusal.done", {"output_index": 0, "item_id": "i0", "content_index": 1, "refusal": "no."}),
        delta("output_text", "ll: ", content_index=0),
        ended({"type": "message", "content": [text, refusal]}),
        COMPLETED,
    )
    assert await parts_of(responses) == [
        ItemStarted(MESSAGE),
        PartStarted("refusal"),
        ItemDelta("no"),
        ItemDelta("."),
        PartStarted("output_text"),
        ItemDelta("We"),
        ItemDelta("ll: "),
        ItemDone({"content": [text, refusal]}),
        Finished("stop"),
    ]


async def test_the_summary_and_the_text_of_a_reasoning_item_are_not_mixed(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def summary_done(index: int, text: str) -> tuple[str, dict[str, Any]]:
        return "reasoning_summary_text.done", {"output_index": 0, "item_id": "i0", "summary_index": index, "text": text}

    provider.script = events(
        added({"type": "reasoning"}),
        delta("reasoning_summary_text", "one", summary_index=0),
        delta("reasoning_text", "raw", content_index=0),
        summary_done(0, "one"),
        delta("reasoning_summary_text", "tw", summary_index=1),
        summary_done(1, "two"),
        ended({"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in ("one", "two")]}),
        COMPLETED,
    )
    assert await parts_of(responses) == [
        ItemStarted({"type": "reasoning"}),
        PartStarted("summary_text"),
        ItemDelta("one"),
        PartStarted("summary_text"),
        ItemDelta("tw"),
        ItemDelta("o"),
        PartStarted("reasoning_text"),
        ItemDelta("raw"),
        Finished("stop"),
    ]


async def test_the_complete_text_of_an_answer_with_a_refusal_is_empty(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = chunks({"content": "They "}, {"refusal": "No."})
    assert (await chat.complete_text({})).text == ""
