"""`/chat/completions` as pieces, off a real connection: one item after the other, nothing lost, nothing mixed."""

from typing import Any

import pytest

from domain.errors import ModelFailed
from domain.events import Usage
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemDelta, ItemStarted
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import joined, pieces_of

MESSAGE = {"type": "message", "role": "assistant"}


def call(call_id: str, name: str = "f") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name}


def streams(*deltas: dict[str, Any], finish_reason: str | None = "stop") -> Any:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for delta in deltas:
            exchange.delta(**delta)
        if finish_reason is not None:
            exchange.piece(finish_reason=finish_reason)
        exchange.end_stream()

    return script


def calls(*made: tuple[int | None, str | None, str | None, str | None]) -> dict[str, Any]:
    """A delta of calls: (index, id, name, arguments)."""
    return {
        "tool_calls": [
            {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, call_id, name, arguments in made
        ]
    }


async def test_text_is_told_as_it_comes_and_the_end_has_the_usage(chat: ModelProvider, provider: Provider) -> None:
    assert await pieces_of(chat) == [
        ItemStarted(MESSAGE),
        *map(ItemDelta, ("Hello", ", ", "world", "!")),
        Finished("stop", Usage(input_tokens=7, output_tokens=4), "scripted"),
    ]
    assert provider.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("deltas", "items"),
    [
        ([], []),
        ([{"content": ""}, {"content": None}, {"role": "assistant"}, {"tool_calls": []}], []),
        ([{"content": "\0"}], [(MESSAGE, "")]),
        ([{"content": "a\0b"}, {"content": "é😀"}], [(MESSAGE, "abé😀")]),
        ([{"refusal": "No"}, {"refusal": "."}], [(MESSAGE, "No.")]),
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
async def test_what_comes_mixed_is_told_in_order(
    chat: ModelProvider, provider: Provider, deltas: list[dict[str, Any]], items: list[tuple[dict[str, Any], str]]
) -> None:
    provider.script = streams(*deltas)
    pieces = await pieces_of(chat)
    assert joined(pieces) == items
    assert pieces[-1] == Finished("stop", None, "scripted")
    assert sum(isinstance(piece, Finished) for piece in pieces) == 1


async def test_the_first_call_is_told_as_it_grows(chat: ModelProvider, provider: Provider) -> None:
    provider.script = streams(calls((0, "c1", "f", "a")), calls((0, None, None, "b")), finish_reason="tool_calls")
    assert await pieces_of(chat) == [
        ItemStarted(call("c1")),
        ItemDelta("a"),
        ItemDelta("b"),
        Finished("tool_calls", None, "scripted"),
    ]


async def test_calls_without_ids_or_with_the_same_get_their_own(chat: ModelProvider, provider: Provider) -> None:
    provider.script = streams(calls((0, None, "f", "a"), (1, "", "g", "b"), (2, "c", "h", ""), (3, "c", "i", "")))
    items = [item for item, _ in joined(await pieces_of(chat))]
    assert [item["name"] for item in items] == ["f", "g", "h", "i"]
    ids = [str(item["call_id"]) for item in items]
    assert len(set(ids)) == 4
    assert ids[2] == "c"
    assert all(each.startswith("call_") and len(each) == 37 for each in (ids[0], ids[1], ids[3]))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("end_turn", "stop"),
    ],
)
async def test_a_finish_reason_is_one_of_four(chat: ModelProvider, provider: Provider, theirs: str, ours: str) -> None:
    provider.script = streams({"content": "a"}, finish_reason=theirs)
    assert (await pieces_of(chat))[-1] == Finished(ours, None, "scripted")


@pytest.mark.parametrize(
    ("deltas", "finish_reason"),
    [
        ([{"content": "a"}], None),
        ([{"content": "a"}], "error"),
        ([calls((0, "c1", None, "a"))], "tool_calls"),
        ([calls((0, 5, "f", "a"))], "tool_calls"),  # type: ignore[arg-type]  # what no provider may send
        ([{"tool_calls": [{"index": "0"}]}], "tool_calls"),
        ([{"tool_calls": {}}], "tool_calls"),
        ([{"content": "x" * 600_000}, {"reasoning": "x" * 600_000}], "stop"),
        ([calls((n, f"c{n}", "f" * 100_000, "")) for n in range(12)], "tool_calls"),
    ],
)
async def test_what_is_no_answer_is_a_failure(
    chat: ModelProvider, provider: Provider, deltas: list[dict[str, Any]], finish_reason: str | None
) -> None:
    provider.script = streams(*deltas, finish_reason=finish_reason)
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(chat)
    assert failed.value.code == "model_error"


async def test_an_answer_is_said_without_its_reasoning(chat: ModelProvider, provider: Provider) -> None:
    provider.script = streams({"reasoning": "hm"}, {"content": "yes"}, {"content": "!"})
    assert (await chat.say({})).text == "yes!"
