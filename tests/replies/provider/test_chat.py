"""How an answer from `/chat/completions` becomes stream parts, over a real connection. All deltas of an item come before the next item starts."""

import json
from typing import Any

import pytest

from domain.events import Usage
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemDelta, ItemStarted
from tests.replies.provider.conftest import MESSAGE, failure_of, joined, parts_of, write
from tests.scripted_provider import Exchange, ScriptedProvider


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def call(call_id: str, name: str = "f") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name}


def stream(*deltas: dict[str, Any], finish_reason: str | None = "stop") -> Any:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for delta in deltas:
            exchange.delta(**delta)
        if finish_reason is not None:
            exchange.text_chunk(finish_reason=finish_reason)
        exchange.end_stream()

    return script


def calls(*deltas: tuple[int | None, str | None, str | None, str | None]) -> dict[str, Any]:
    """A delta with these tool calls. Each call is given as (index, id, name, arguments)."""
    return {
        "tool_calls": [
            {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, call_id, name, arguments in deltas
        ]
    }


async def test_text_and_usage_become_stream_parts(chat: ModelProvider, provider: ScriptedProvider) -> None:
    assert await parts_of(chat) == [
        ItemStarted(MESSAGE),
        *map(ItemDelta, ("Hello", ", ", "world", "!")),
        Finished("stop", Usage(input_tokens=7, output_tokens=4), "scripted"),
    ]
    assert provider.paths == ["/v1/chat/completions"]


async def test_cached_tokens_are_read_in_several_forms_and_an_invalid_tier_is_ignored(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    for usage, tier, cached, written, known_tier in (
        ({"prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2}}, "flex", 3, 2, "flex"),
        ({"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 4}, None, 4, 0, None),
        ({"cache_read_input_tokens": 5, "cache_creation_input_tokens": 6}, 7, 5, 6, None),
        ({"cached_tokens": 8}, "t" * 65, 8, 0, None),
    ):

        def script(exchange: Exchange, usage: dict[str, Any] = usage, tier: Any = tier) -> None:
            exchange.begin_stream()
            exchange.text_chunk("hi")
            exchange.text_chunk(finish_reason="stop")
            exchange.chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 1, **usage}, service_tier=tier)
            exchange.end_stream()

        provider.script = script
        expected = Usage(input_tokens=9, output_tokens=1, cached_tokens=cached, cache_write_tokens=written)
        assert (await parts_of(chat))[-1] == Finished("stop", expected, "scripted", known_tier)


@pytest.mark.parametrize(
    ("deltas", "items"),
    [
        ([], []),
        ([{"content": ""}, {"content": None}, {"role": "assistant"}, {"tool_calls": []}], []),
        ([{"content": "\0"}], [(MESSAGE, "")]),
        ([{"content": "a\0b"}, {"content": "é😀"}], [(MESSAGE, "abé😀")]),
        ([{"refusal": "No"}, {"refusal": "."}], [(MESSAGE, "[refusal]No.")]),
        (
            [{"content": "Well"}, {"content": ": "}, {"refusal": "No"}, {"content": "But"}],
            [(MESSAGE, "Well: [refusal]No[output_text]But")],
        ),
        ([{"content": "a", "refusal": "b"}], [(MESSAGE, "a[refusal]b")]),
        (
            [{"reasoning_content": "h"}, {"reasoning_content": "m", "content": ""}, {"content": "yes"}],
            [({"type": "reasoning"}, "hm"), (MESSAGE, "yes")],
        ),
        ([{"reasoning": "hm", "reasoning_content": "hm"}], [({"type": "reasoning"}, "hm")]),
        ([{"reasoning": {"not": "text"}, "content": "a"}], [(MESSAGE, "a")]),
        (
            [{"reasoning": "1"}, {"content": "2"}, {"reasoning": "3"}],
            [({"type": "reasoning"}, "1"), (MESSAGE, "2"), ({"type": "reasoning"}, "3")],
        ),
        (
            [
                {"content": "I look."},
                calls((0, "c1", "f", "")),
                calls((0, None, None, '{"a"')),
                calls((0, None, None, ":1}")),
            ],
            [(MESSAGE, "I look."), (call("c1"), '{"a":1}')],
        ),
        (
            [calls((0, "c1", "f", "")), calls((1, "c2", "g", "x")), calls((0, None, None, "a"), (1, None, None, "y"))],
            [(call("c1"), "a"), (call("c2", "g"), "xy")],
        ),
        (
            [calls((0, "c1", "f", "a")), {"content": "mean"}, calls((0, None, None, "b")), {"content": "while"}],
            [(call("c1"), "ab"), (MESSAGE, "meanwhile")],
        ),
        ([calls((0, "c1", None, "a")), calls((0, None, "f", "b"))], [(call("c1"), "ab")]),
        ([calls((0, "c1", "f", "a")), calls((0, "c1", "f", "b"))], [(call("c1"), "ab")]),
        ([calls((0, "c1", "f", "a")), calls((0, "c2", "g", "b"))], [(call("c1"), "a"), (call("c2", "g"), "b")]),
        ([calls((None, "c1", "f", "a"), (None, "c2", "g", "b"))], [(call("c1"), "a"), (call("c2", "g"), "b")]),
        ([calls((0, "c1", "f", "{not json"))], [(call("c1"), "{not json")]),
        (
            [
                {"tool_calls": [{"index": 0, "id": "c1", "type": "custom", "custom": {"name": "py", "input": "1+"}}]},
                {"tool_calls": [{"index": 0, "custom": {"input": "1"}}]},
            ],
            [({"type": "custom_tool_call", "call_id": "c1", "name": "py", "input": "1+1"}, "")],
        ),
    ],
)
async def test_items_from_deltas_of_every_kind_are_not_mixed(
    chat: ModelProvider,
    provider: ScriptedProvider,
    deltas: list[dict[str, Any]],
    items: list[tuple[dict[str, Any], str]],
) -> None:
    provider.script = stream(*deltas)
    parts = await parts_of(chat)
    assert joined(parts) == items
    assert parts[-1] == Finished("stop", None, "scripted")
    assert sum(isinstance(part, Finished) for part in parts) == 1


async def test_the_arguments_of_the_first_call_are_passed_on_as_they_arrive(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = stream(calls((0, "c1", "f", "a")), calls((0, None, None, "b")), finish_reason="tool_calls")
    assert await parts_of(chat) == [
        ItemStarted(call("c1")),
        ItemDelta("a"),
        ItemDelta("b"),
        Finished("tool_calls", None, "scripted"),
    ]


async def test_calls_without_ids_or_with_the_same_id_get_different_ids(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = stream(calls((0, None, "f", "a"), (1, "", "g", "b"), (2, "c", "h", ""), (3, "c", "i", "")))
    items = [item for item, _ in joined(await parts_of(chat))]
    assert [item["name"] for item in items] == ["f", "g", "h", "i"]
    ids = [str(item["call_id"]) for item in items]
    assert len(set(ids)) == 4
    assert ids[2] == "c"
    assert all(minted.startswith("call_") and len(minted) == 37 for minted in (ids[0], ids[1], ids[3]))


@pytest.mark.parametrize("call_id", [None, ""])
async def test_calls_that_share_an_index_and_have_no_id_are_separate_calls(
    call_id: str | None, chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = stream(
        calls((0, call_id, "look", '{"at":"Paris"}')),
        calls((0, call_id, "look", '{"at":"London"}')),
        calls((0, call_id, "ask", '{"wh')),
        calls((0, None, None, 'o":1}')),
        finish_reason="tool_calls",
    )
    items = joined(await parts_of(chat))
    assert [(item["name"], text) for item, text in items] == [
        ("look", '{"at":"Paris"}'),
        ("look", '{"at":"London"}'),
        ("ask", '{"who":1}'),
    ]
    assert len({str(item["call_id"]) for item, _ in items}) == 3


async def test_deltas_that_repeat_the_name_are_one_call(chat: ModelProvider, provider: ScriptedProvider) -> None:
    provider.script = stream(
        calls((0, "c1", "look", "")),
        calls((0, None, "look", '{"at":')),
        calls((0, None, "look", '"Paris"}')),
        calls((0, None, "look", "")),
        finish_reason="tool_calls",
    )
    assert joined(await parts_of(chat)) == [(call("c1", "look"), '{"at":"Paris"}')]


async def test_chunks_of_other_choices_are_ignored_and_a_chunk_needs_no_delta(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = write(
        chunk(index=0, delta={"content": "a"}),
        chunk(index=1, delta={"content": "not this"}, finish_reason="length"),
        chunk(index=0, content_filter_offsets={"start_offset": 1}),
        chunk(index=0, delta=None),
        chunk(index=0, finish_reason="stop") + b"data: [DONE]\n\n",
    )
    parts = await parts_of(chat)
    assert joined(parts) == [(MESSAGE, "a")]
    assert parts[-1] == Finished("stop")


@pytest.mark.parametrize(
    ("provider_reason", "expected_reason"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("end_turn", "stop"),
    ],
)
async def test_a_finish_reason_becomes_one_of_four(
    chat: ModelProvider, provider: ScriptedProvider, provider_reason: str, expected_reason: str
) -> None:
    provider.script = stream({"content": "a"}, finish_reason=provider_reason)
    assert (await parts_of(chat))[-1] == Finished(expected_reason, None, "scripted")


@pytest.mark.parametrize(
    ("deltas", "finish_reason"),
    [
        ([{"content": "a"}], None),
        ([{"content": "a"}], "error"),
        ([calls((0, "c1", None, "a"))], "tool_calls"),
        ([calls((0, 5, "f", "a"))], "tool_calls"),  # type: ignore[arg-type]  # a provider may send anything
        ([{"tool_calls": [{"index": "0"}]}], "tool_calls"),
        ([{"tool_calls": {}}], "tool_calls"),
        ([{"content": "x" * 600_000}, {"reasoning": "x" * 600_000}], "stop"),
        ([calls((n, f"c{n}", "f" * 100_000, "")) for n in range(12)], "tool_calls"),
    ],
)
async def test_a_broken_or_too_long_answer_is_a_failure(
    chat: ModelProvider, provider: ScriptedProvider, deltas: list[dict[str, Any]], finish_reason: str | None
) -> None:
    provider.script = stream(*deltas, finish_reason=finish_reason)
    assert (await failure_of(chat)).code == "model_error"


async def test_the_complete_text_has_no_reasoning(chat: ModelProvider, provider: ScriptedProvider) -> None:
    provider.script = stream({"reasoning": "hm"}, {"content": "yes"}, {"content": "!"})
    assert (await chat.complete_text({})).text == "yes!"


async def test_an_answer_that_a_content_filter_cut_off_has_no_complete_text(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = lambda exchange: exchange.stream_text("They", " talked", finish_reason="content_filter")
    answer = await chat.complete_text({})
    assert answer.text == ""
    assert answer.usage is not None
