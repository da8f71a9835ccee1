"""How an answer from `/responses` becomes stream parts, over a real connection."""

from typing import Any

import pytest

from domain.content_references import inline_reference
from domain.events import Usage
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemDelta, ItemDone, ItemStarted
from tests.replies.provider.conftest import MESSAGE, failure_of, joined, parts_of
from tests.scripted_provider import Exchange, ScriptedProvider

CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens_details": {"reasoning_tokens": 2},
}


def message(text: str, item_id: str = "msg_1", **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": [part], **fields}


def answer(*items: dict[str, Any], **response: Any) -> Any:
    return lambda exchange: exchange.stream_items(*items, **response)


async def test_text_and_usage_become_stream_parts(responses: ModelProvider, provider: ScriptedProvider) -> None:
    provider.script = answer(message("Hello, big world!"), usage=USAGE)
    usage = Usage(input_tokens=7, output_tokens=5, cached_tokens=3, reasoning_tokens=2)
    assert await parts_of(responses) == [
        ItemStarted(MESSAGE),
        *map(ItemDelta, ("Hello, ", "big ", "world!")),
        Finished("stop", usage, "scripted"),
    ]
    assert provider.paths == ["/v1/responses"]


async def test_items_of_several_types_are_passed_on_without_their_ids(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"query": "a\0b"}}
    provider.script = answer(
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "s"}],
            "encrypted_content": "gA",
        },
        {"id": "rs_2", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        search,
        message("Look:", phase="commentary"),
        {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{not json"},
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c2", "name": "py", "input": "1+1"},
    )
    parts = await parts_of(responses)
    assert joined(parts) == [
        ({"type": "reasoning", "encrypted_content": "gA"}, "[summary_text]s"),
        ({"type": "reasoning"}, "hm"),
        ({"type": "web_search_call", "status": "completed", "action": {"query": "ab"}}, ""),
        ({**MESSAGE, "phase": "commentary"}, "Look:"),
        ({"type": "function_call", "call_id": "c1", "name": "f"}, "{not json"),
        ({"type": "custom_tool_call", "call_id": "c2", "name": "py", "input": "1+1"}, ""),
    ]
    assert parts[-1] == Finished("tool_calls", None, "scripted")


async def test_content_that_is_not_only_plain_text_is_a_field_of_the_message(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    cited = {"type": "output_text", "text": "a b", "annotations": [{"type": "url_citation", "url": "https://x"}]}
    refused = {"type": "refusal", "refusal": "No."}
    provider.script = answer({**message(""), "content": [cited]}, {**message("", "msg_2"), "content": [refused]})
    assert joined(await parts_of(responses)) == [
        ({**MESSAGE, "content": [cited]}, "a b"),
        ({**MESSAGE, "content": [refused]}, "[refusal]No."),
    ]


async def test_interleaved_items_are_passed_on_one_after_the_other(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        one, two = message("one", "m1"), message("two!", "m2")
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
    assert await parts_of(responses) == [
        ItemStarted(MESSAGE),
        ItemDelta("on"),
        ItemDelta("e"),
        ItemStarted(MESSAGE),
        ItemDelta("two!"),
        Finished("stop"),
    ]


async def test_an_answer_with_only_a_completed_event_is_read(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.completed", response={"status": "completed", "output": [message("whole")]})

    provider.script = script
    assert await parts_of(responses) == [ItemStarted(MESSAGE), ItemDelta("whole"), Finished("stop")]


async def test_an_item_that_only_the_completed_event_has_is_passed_on(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.output_item.added", output_index=0, item=message(""))
        exchange.event("response.output_text.delta", item_id="msg_1", output_index=0, delta="I look")
        exchange.event("response.output_item.done", output_index=0, item=message("I look."))
        exchange.event("response.completed", response={"status": "completed", "output": [message("I look."), CALL]})

    provider.script = script
    parts = await parts_of(responses)
    assert joined(parts) == [(MESSAGE, "I look."), ({"type": "function_call", "call_id": "c1", "name": "f"}, "{}")]
    assert parts[-1] == Finished("tool_calls")


async def test_an_item_without_a_done_event_is_read_from_the_completed_event(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.event("response.output_item.added", output_index=0, item=message(""))
        exchange.event("response.output_text.delta", item_id="msg_1", output_index=0, delta="I ")
        exchange.event("response.output_item.added", output_index=1, item={**CALL, "arguments": ""})
        exchange.event("response.completed", response={"status": "completed", "output": [message("I look."), CALL]})

    provider.script = script
    assert joined(await parts_of(responses)) == [
        (MESSAGE, "I look."),
        ({"type": "function_call", "call_id": "c1", "name": "f"}, "{}"),
    ]


async def test_items_whose_ids_change_with_each_event_are_matched_by_index(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for index, item in enumerate((message(""), message(""))):
            exchange.event("response.output_item.added", output_index=index, item={**item, "id": f"a{index}"})
        for index in (0, 1, 0):
            exchange.event("response.output_text.delta", item_id=f"b{index}", output_index=index, delta=f"{index}")
        for index, text in enumerate(("00", "1")):
            exchange.event("response.output_item.done", output_index=index, item={**message(text), "id": f"c{index}"})
        output: list[dict[str, Any]] = [{**message("00"), "id": "d0"}, {**message("1"), "id": "d1"}]
        exchange.event("response.completed", response={"status": "completed", "output": output})

    provider.script = script
    assert joined(await parts_of(responses)) == [(MESSAGE, "00"), (MESSAGE, "1")]


async def test_an_answer_without_items_is_only_a_finished_part(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = answer()
    assert await parts_of(responses) == [Finished("stop", None, "scripted")]


@pytest.mark.parametrize(
    ("details", "reason"),
    [({"reason": "max_output_tokens"}, "length"), ({"reason": "content_filter"}, "content_filter"), (None, "length")],
)
async def test_an_incomplete_answer_has_its_finish_reason(
    responses: ModelProvider, provider: ScriptedProvider, details: Any, reason: str
) -> None:
    provider.script = answer(message("cut"), status="incomplete", incomplete_details=details)
    parts = await parts_of(responses)
    assert joined(parts) == [(MESSAGE, "cut")]
    assert parts[-1] == Finished(reason, None, "scripted")


async def test_started_items_of_an_incomplete_answer_are_kept(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for item_id in ("m1", "m2"):
            exchange.event("response.output_item.added", item={**message("", item_id), "content": []})
            exchange.event("response.output_text.delta", item_id=item_id, delta=item_id)
        exchange.event("response.incomplete", response={})

    provider.script = script
    parts = await parts_of(responses)
    assert parts == [ItemStarted(MESSAGE), ItemDelta("m1"), ItemStarted(MESSAGE), ItemDelta("m2"), Finished("length")]


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
async def test_the_failure_of_a_response_does_not_quote_the_provider(
    responses: ModelProvider, provider: ScriptedProvider, error: Any, code: str
) -> None:
    provider.script = answer(message("par"), status="failed", error=error)
    failure = await failure_of(responses)
    assert failure.code == code
    assert "secret" not in failure.message


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
async def test_a_broken_or_too_long_answer_is_a_failure(
    responses: ModelProvider, provider: ScriptedProvider, script: Any
) -> None:
    provider.script = script
    assert (await failure_of(responses)).code == "model_error"


async def test_an_item_of_an_unknown_type_keeps_its_fields(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    item = {"id": "x", "type": "of_tomorrow", "n": 2**70, "deep": [[{"a": None}]], "status": "in_progress"}
    provider.script = answer(item)
    [started, done, _] = await parts_of(responses)
    assert started == ItemStarted({"type": "of_tomorrow", "n": 2**70, "deep": [[{"a": None}]], "status": "in_progress"})
    assert isinstance(done, ItemDone)


async def test_an_item_that_names_a_content_of_the_store_is_refused(
    responses: ModelProvider, provider: ScriptedProvider
) -> None:
    """Such an item would show the content to anybody who asks the model."""
    reference = inline_reference("default", b"\0" * 32, 1, "image/png").text
    image = {"type": "input_image", "image_url": reference}
    provider.script = answer({"id": "x_1", "type": "other_output", "output": [image]})
    assert (await failure_of(responses)).code == "model_error"
    provider.script = answer(message(reference))
    assert (await parts_of(responses))[:2] == [ItemStarted(MESSAGE), ItemDelta(reference)]
