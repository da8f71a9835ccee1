"""`/responses` as pieces, off a real connection."""

from typing import Any

import pytest

from domain.errors import ModelFailed
from domain.events import Usage
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemDelta, ItemDone, ItemStarted
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import joined, pieces_of

MESSAGE = {"type": "message", "role": "assistant"}
USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens_details": {"reasoning_tokens": 2},
}


def said(text: str, item_id: str = "msg_1", **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": [part], **fields}


def answers(*items: dict[str, Any], **response: Any) -> Any:
    return lambda exchange: exchange.answer(*items, **response)


async def test_text_is_told_as_it_comes_and_the_end_has_the_usage(responses: ModelProvider, provider: Provider) -> None:
    provider.script = answers(said("Hello, big world!"), usage=USAGE)
    usage = Usage(input_tokens=7, output_tokens=5, cached_tokens=3, reasoning_tokens=2)
    assert await pieces_of(responses) == [
        ItemStarted(MESSAGE),
        *map(ItemDelta, ("Hello, ", "big ", "world!")),
        Finished("stop", usage, "scripted"),
    ]
    assert provider.paths == ["/v1/responses"]


async def test_each_item_is_told_after_the_other_without_ids(responses: ModelProvider, provider: Provider) -> None:
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"query": "a\0b"}}
    provider.script = answers(
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "s"}],
            "encrypted_content": "gA",
        },
        {"id": "rs_2", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        search,
        said("Look:", phase="commentary"),
        {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{not json"},
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c2", "name": "py", "input": "1+1"},
    )
    pieces = await pieces_of(responses)
    assert joined(pieces) == [
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gA"}, ""),
        ({"type": "reasoning", "summary": []}, "hm"),
        ({"type": "web_search_call", "status": "completed", "action": {"query": "ab"}}, ""),
        ({**MESSAGE, "phase": "commentary"}, "Look:"),
        ({"type": "function_call", "call_id": "c1", "name": "f"}, "{not json"),
        ({"type": "custom_tool_call", "call_id": "c2", "name": "py", "input": "1+1"}, ""),
    ]
    assert pieces[-1] == Finished("tool_calls", None, "scripted")


async def test_parts_that_are_more_than_text_are_told_whole(responses: ModelProvider, provider: Provider) -> None:
    cited = {"type": "output_text", "text": "a b", "annotations": [{"type": "url_citation", "url": "https://x"}]}
    refused = {"type": "refusal", "refusal": "No."}
    provider.script = answers({**said(""), "content": [cited]}, {**said("", "msg_2"), "content": [refused]})
    assert joined(await pieces_of(responses)) == [
        ({**MESSAGE, "content": [cited]}, "a b"),
        ({**MESSAGE, "content": [refused]}, "No."),
    ]


async def test_items_that_come_at_once_are_told_one_after_the_other(
    responses: ModelProvider, provider: Provider
) -> None:
    def script(exchange: Exchange) -> None:
        one, two = said("one", "m1"), said("two!", "m2")
        exchange.begin_stream()
        exchange.event("response.output_item.added", item={**one, "content": []})
        exchange.event("response.output_item.added", item={**two, "content": []})
        exchange.event("response.output_text.delta", item_id="m2", delta="two")
        exchange.event("response.output_text.delta", item_id="m1", delta="on")
        exchange.event("response.output_text.delta", item_id="m2", delta="!")
        exchange.event("response.output_item.done", item=two)
        exchange.event("response.output_text.delta", item_id="m1", delta="e")
        exchange.event("response.output_item.done", item=one)
        exchange.event("response.completed", response={})

    provider.script = script
    assert await pieces_of(responses) == [
        ItemStarted(MESSAGE),
        ItemDelta("on"),
        ItemDelta("e"),
        ItemStarted(MESSAGE),
        ItemDelta("two!"),
        Finished("stop"),
    ]


async def test_a_provider_that_tells_the_end_alone_is_understood(responses: ModelProvider, provider: Provider) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.completed", response={"status": "completed", "output": [said("whole")]})

    provider.script = script
    assert await pieces_of(responses) == [ItemStarted(MESSAGE), ItemDelta("whole"), Finished("stop")]


async def test_an_answer_of_nothing_is_its_end_alone(responses: ModelProvider, provider: Provider) -> None:
    provider.script = answers()
    assert await pieces_of(responses) == [Finished("stop", None, "scripted")]


@pytest.mark.parametrize(
    ("details", "reason"),
    [({"reason": "max_output_tokens"}, "length"), ({"reason": "content_filter"}, "content_filter"), (None, "length")],
)
async def test_an_answer_that_is_cut_says_why(
    responses: ModelProvider, provider: Provider, details: Any, reason: str
) -> None:
    provider.script = answers(said("cut"), status="incomplete", incomplete_details=details)
    pieces = await pieces_of(responses)
    assert joined(pieces) == [(MESSAGE, "cut")]
    assert pieces[-1] == Finished(reason, None, "scripted")


async def test_what_had_begun_when_it_was_cut_is_told(responses: ModelProvider, provider: Provider) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for item_id in ("m1", "m2"):
            exchange.event("response.output_item.added", item={**said("", item_id), "content": []})
            exchange.event("response.output_text.delta", item_id=item_id, delta=item_id)
        exchange.event("response.incomplete", response={})

    provider.script = script
    pieces = await pieces_of(responses)
    assert pieces == [ItemStarted(MESSAGE), ItemDelta("m1"), ItemStarted(MESSAGE), ItemDelta("m2"), Finished("length")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "server_error", "message": "secret"}, "model_error"),
        ({"code": "rate_limit_exceeded", "message": "secret"}, "model_rate_limited"),
        ({"code": "context_length_exceeded", "message": "secret"}, "context_length_exceeded"),
        (None, "model_error"),
        ([5], "model_error"),
    ],
)
async def test_an_answer_that_failed_is_a_failure(
    responses: ModelProvider, provider: Provider, error: Any, code: str
) -> None:
    provider.script = answers(said("par"), status="failed", error=error)
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(responses)
    assert failed.value.code == code
    assert "secret" not in failed.value.message


def event(kind: str, **fields: Any) -> Any:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.output_item.added", item={"id": "i", "type": "message", "content": []})
        exchange.event(kind, **fields)
        exchange.event("response.completed", response={})

    return script


@pytest.mark.parametrize(
    "script",
    [
        event("response.output_text.delta", item_id="other", delta="a"),
        event("response.output_text.delta", item_id="i", delta=5),
        event("response.output_text.delta", item_id=5, delta="a"),
        event("response.output_text.delta", item_id="i", delta="\ud83d"),
        event("response.output_item.added", item="text"),
        event("response.output_item.added", item={"id": "f", "type": "function_call"}),
        event("response.output_item.added", item={"id": "f", "type": "x" * 100}),
        event("response.output_item.done", item={"id": "i", "type": "reasoning"}),
        event("response.output_item.done", item={"id": "i", "type": "message", "content": [5]}),
        event("response.output_item.done", item={"id": "x", "type": "image", "result": "x" * 5_000_000}),
        event("response.completed", response={"model": 5}),
        event("response.failed", response="text"),
        event("error", message="secret"),
        lambda exchange: exchange.begin_stream(),
    ],
)
async def test_what_is_no_answer_is_a_failure(responses: ModelProvider, provider: Provider, script: Any) -> None:
    provider.script = script
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(responses)
    assert failed.value.code == "model_error"


async def test_fields_that_can_not_be_text_are_kept_and_whole(responses: ModelProvider, provider: Provider) -> None:
    item = {"id": "x", "type": "of_tomorrow", "n": 2**70, "deep": [[{"a": None}]], "status": "in_progress"}
    provider.script = answers(item)
    [began, whole, _] = await pieces_of(responses)
    assert began == ItemStarted({"type": "of_tomorrow", "n": 2**70, "deep": [[{"a": None}]], "status": "in_progress"})
    assert isinstance(whole, ItemDone)
