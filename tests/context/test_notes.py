"""Renderers 8 and 9 send a short note in place of what the model cannot take.

`scripts/test tests/context/test_notes.py -m endless` tries ten thousand lists of items.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseInputItemParam, ResponseOutputRefusalParam, ResponseOutputTextParam
from pydantic import TypeAdapter

from context.rendering import CHAT, RESPONSES, needed_abilities, noted_item, render, request_sha256, unsendable
from domain.items import Item
from tests.context.test_renderers import ITEMS, PARAMETERS

ABILITIES = ("image", "file", "audio", "tools", "custom_tools", "other_items", "reasoning")
IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}
PDF = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c", "name": "py", "input": "1+1"}
NO_IMAGES = "[An image was here. This model cannot take images.]"
NOT_HERE = "[An image was here. It cannot be sent to this model.]"


def user(*parts: Any) -> Item:
    return {"type": "message", "role": "user", "content": list(parts)}


def text(words: str) -> Item:
    return {"type": "input_text", "text": words}


def output(*parts: Any, kind: str = "function_call_output") -> Item:
    return {"type": kind, "call_id": "c", "output": list(parts)}


def note(role: str, words: str) -> Item:
    return {"type": "message", "role": role, "content": words}


BROKEN = CALL | {"arguments": '{"note":"The arguments of this call were not valid JSON."}'}


@pytest.mark.parametrize(
    ("item", "missing", "in_chat", "in_responses"),
    [
        (user(text("a"), IMAGE), "", None, (user(text("a"), IMAGE | {"detail": "auto"}), None)),
        (user(PDF | {"file_url": None}), "", (user(PDF), None), "same"),
        (user(PDF | {"detail": "?"}), "", (user(PDF), None), "same"),
        (user(text("a"), IMAGE), "image", (user(text("a"), text(NO_IMAGES)), "no_image"), "same"),
        (
            user(PDF),
            "file",
            (user(text("[A file, a.pdf, was here. This model cannot take files.]")), "no_file"),
            "same",
        ),
        (
            user(AUDIO),
            "audio",
            (user(text("[An audio recording was here. It cannot be sent to this model.]")), "not_expressible"),
            (user(text("[An audio recording was here. This model cannot take audio.]")), "no_audio"),
        ),
        (
            {"role": "assistant", "content": [IMAGE]},
            "",
            ({"role": "assistant", "content": [{"type": "output_text", "text": NOT_HERE}]}, "not_expressible"),
            "same",
        ),
        (
            user({"type": "of_tomorrow"}),
            "",
            (user(text("[A part of type of_tomorrow was here. This model cannot take it.]")), "not_expressible"),
            None,
        ),
        (
            user({"type": "of_tomorrow"}),
            "other_items",
            (user(text("[A part of type of_tomorrow was here. This model cannot take it.]")), "not_expressible"),
            (user(text("[A part of type of_tomorrow was here. This model cannot take it.]")), "no_other_items"),
        ),
        (user(), "image", None, None),
        (user(text("a"), text("b")), "image", None, None),
        (output(text("a"), IMAGE), "", (output(text("a"), text(NOT_HERE)), "not_expressible"), "detail"),
        (output(7), "", (output(text("[A part without a type was here. This model cannot take it.]")), "not_expressible"), "same"),
        (CALL, "custom_tools", None, None),
        (CALL, "tools", (note("assistant", "[Call c of the function look:]\n{}"), "no_tools"), "same"),
        (CALL | {"arguments": '{"cut": "of'}, "", (BROKEN, "invalid_arguments"), "same"),
        (CALL | {"arguments": "[1]"}, "", (BROKEN, "invalid_arguments"), "same"),
        (CALL | {"arguments": " "}, "", (CALL, None), "same"),
        (
            {"type": "function_call_output", "call_id": "c", "output": "2"},
            "tools",
            (note("user", "[Answer to call c:]\n2"), "no_tools"),
            "same",
        ),
        (CUSTOM, "custom_tools", (note("assistant", "[Call c of the tool py:]\n1+1"), "no_custom_tools"), "same"),
        (
            output(text("2"), kind="custom_tool_call_output"),
            "custom_tools",
            (user(text("[Answer to call c:]"), text("2")), "no_custom_tools"),
            "same",
        ),
        (
            output(IMAGE, kind="custom_tool_call_output"),
            "custom_tools image",
            (user(text("[Answer to call c:]"), text(NOT_HERE)), "no_custom_tools"),
            (user(text("[Answer to call c:]"), text(NO_IMAGES)), "no_custom_tools"),
        ),
        (
            {"type": "web_search_call", "status": "completed"},
            "",
            (note("assistant", "[An item of type web_search_call was here. This model cannot take it.]"), "not_expressible"),
            None,
        ),
        (
            {"type": "shell_call_output", "call_id": "c", "output": []},
            "other_items",
            (note("user", "[An item of type shell_call_output was here. This model cannot take it.]"), "not_expressible"),
            (note("user", "[An item of type shell_call_output was here. This model cannot take it.]"), "no_other_items"),
        ),
        (
            {"type": "image_generation_call", "status": "completed", "result": "AA=="},
            "image",
            (note("assistant", "[An item of type image_generation_call was here. This model cannot take it.]"), "not_expressible"),
            (note("assistant", "[An item of type image_generation_call was here. This model cannot take it.]"), "no_image"),
        ),
        (
            {"type": "compaction", "encrypted_content": "theirs"},
            "",
            (note("assistant", "[A summary that only another provider can read was here.]"), "not_expressible"),
            "same",
        ),
        (
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
            "reasoning",
            None,
            ({"type": "reasoning", "summary": []}, "reasoning"),
        ),
    ],
)  # fmt: skip
def test_an_item_is_sent_in_a_form_that_the_model_takes(
    item: Item, missing: str, in_chat: Any, in_responses: Any
) -> None:
    if in_responses == "same":
        in_responses = in_chat
    if in_responses == "detail":
        in_responses = (output(text("a"), IMAGE | {"detail": "auto"}), None)
    for renderer, expected in ((CHAT, in_chat), (RESPONSES, in_responses)):
        noted = noted_item(renderer, item, missing.split())
        assert (noted and (noted.item, noted.reason)) == expected
        needed = needed_abilities(renderer, [item])
        assert noted_item(renderer, item, needed.intersection(missing.split())) == noted
    assert noted_item(4, item, missing.split()) is None


GOLDEN: dict[tuple[int, tuple[str, ...]], str] = {
    (8, ()): "9b07e191864a295f9ea3aa205888f2d3789fb958e88bcb82899272f46ad16611",
    (8, ABILITIES): "521c10cd4123e976ba7464f90d69a379aeda3793de4ba5c6ff4c362823dca9dd",
    (9, ()): "cf102bed22522bde0dd85163d379b5bafd40c8a9f04f8caf80e0a73940be6217",
    (9, ABILITIES): "ed3f86f0f5fdfbdc5dc28b4a7eba00aa7ff55f2d76ab34e0c19cf0616aab7885",
}
"""SHA-256 of the request bodies."""


@pytest.mark.parametrize(("renderer", "missing"), GOLDEN)
def test_the_output_of_renderers_8_and_9_has_not_changed(renderer: int, missing: tuple[str, ...]) -> None:
    body = body_of(renderer, ITEMS, missing, summary="S", instructions=["a", "b"], parameters=PARAMETERS)
    assert request_sha256(body).hex() == GOLDEN[renderer, missing]


def test_calls_that_become_text_are_sent_beside_calls_that_stay_calls() -> None:
    items = [
        note("user", "Q"),
        CALL | {"call_id": "a"},
        CUSTOM,
        {"type": "function_call_output", "call_id": "a", "output": "A"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "2"},
        note("assistant", "2"),
    ]
    assert [
        (message["role"], message.get("content"), "tool_calls" in message)
        for message in body_of(8, items, ["custom_tools"])["messages"]
    ] == [
        ("user", "Q", False),
        ("assistant", None, True),
        ("tool", "A", False),
        ("assistant", "[Call c of the tool py:]\n1+1", False),
        ("user", "[Answer to call c:]\n2", False),
        ("assistant", "2", False),
    ]
    assert [item["type"] for item in body_of(9, items, ["custom_tools"])["input"]] == [
        "message", "function_call", "message", "function_call_output", "message", "message",
    ]  # fmt: skip


def test_of_renderers_5_8_and_9_only_9_sends_the_stores_cache_key() -> None:
    keys = [
        render(renderer, model="m", instructions=[], summary=None, items=[], parameters=given, cache_key="conv_1").get(
            "prompt_cache_key"
        )
        for renderer in (CHAT, RESPONSES, 5)
        for given in ({}, {"prompt_cache_key": "k"})
    ]
    assert keys == [None, "k", "conv_1", "k", None, "k"]


def body_of(
    renderer: int,
    items: list[Item],
    missing: Iterable[str],
    *,
    summary: str | None = None,
    instructions: Iterable[str] = (),
    parameters: Any = None,
) -> dict[str, Any]:
    return render(
        renderer,
        model="m",
        instructions=list(instructions),
        summary=summary,
        items=items,
        parameters=parameters or {},
        item_ids=[f"item_{index}" for index in range(len(items))],
        missing=frozenset(missing),
    )


TEN_THOUSAND = 10_000
A_FEW = 150

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values: st.SearchStrategy[Any] = st.one_of(words, st.none(), st.integers(0, 2), st.just({}))
part_types = st.sampled_from(
    ["input_text", "output_text", "text", "refusal", "input_image", "input_file", "input_audio", "summary_text", "odd"]
)
odd_parts = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    part_types,
    st.dictionaries(st.sampled_from(["refusal", "image_url", "file_id", "file_data", "detail", "filename"]), values),
)
parts = st.one_of(
    odd_parts,
    st.builds(
        lambda kind, written: {"type": kind, "text": written}, st.sampled_from(["input_text", "output_text"]), words
    ),
    st.sampled_from([IMAGE, PDF, AUDIO, {"type": "refusal", "refusal": "No."}]),
).filter(lambda part: part["type"] not in ("input_text", "output_text", "text", "summary_text") or "text" in part)
call_ids = st.sampled_from("abc")
odd_items: st.SearchStrategy[Item] = st.one_of(
    st.builds(
        lambda role, content: {"type": "message", "role": role, "content": content},
        st.sampled_from(["user", "assistant", "system", "developer"]),
        st.one_of(words, st.lists(parts, max_size=4)),
    ),
    st.builds(
        lambda call, written: CALL | {"call_id": call, "arguments": written}, call_ids, st.one_of(words, st.just("{}"))
    ),
    st.builds(lambda call, written: CUSTOM | {"call_id": call, "input": written}, call_ids, words),
    st.builds(
        lambda kind, call, written: {"type": f"{kind}_output", "call_id": call, "output": written},
        st.sampled_from(["function_call", "custom_tool_call"]),
        call_ids,
        st.one_of(words, st.lists(st.one_of(parts, values), max_size=3)),
    ),
    st.builds(
        lambda kind, call: {"type": kind, "call_id": call},
        st.sampled_from(
            ["shell_call", "shell_call_output", "computer_call", "computer_call_output", "web_search_call", "x"]
        ),
        call_ids,
    ),
    st.builds(
        lambda encrypted: {"type": "reasoning", "summary": [], "encrypted_content": encrypted},
        st.sampled_from([None, "g"]),
    ),
    st.builds(lambda encrypted: {"type": "compaction", "encrypted_content": encrypted}, values),
)

_messages: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)
_items: TypeAdapter[Any] = TypeAdapter(ResponseInputItemParam)
_answer_part: TypeAdapter[Any] = TypeAdapter(ResponseOutputTextParam | ResponseOutputRefusalParam)


def exhaust(validated: Any) -> None:
    """Reads all elements, because pydantic checks the elements of an `Iterable` only while they are read."""
    if isinstance(validated, dict):
        for value in validated.values():
            exhaust(value)
    elif isinstance(validated, Iterable) and not isinstance(validated, str):
        for value in validated:
            exhaust(value)


def check_chat(body: dict[str, Any]) -> None:
    open_calls: list[str] = []
    for message in body["messages"]:
        exhaust(_messages.validate_python(message))
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls
            open_calls.remove(message["tool_call_id"])
        else:
            assert open_calls == []
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
    assert open_calls == []


def check_responses(body: dict[str, Any]) -> None:
    open_calls: list[tuple[str, str]] = []
    for item in body["input"]:
        if item.get("role") == "assistant" and isinstance(item["content"], list):
            for part in item["content"]:
                exhaust(_answer_part.validate_python(part))
        else:
            exhaust(_items.validate_python(item))
        if item["type"].endswith("_output"):
            open_calls.remove((item["type"].removesuffix("_output"), item["call_id"]))
        elif "call_id" in item:
            open_calls.append((item["type"], item["call_id"]))
    assert open_calls == []


@pytest.mark.parametrize("examples", [A_FEW, pytest.param(TEN_THOUSAND, marks=pytest.mark.endless)])
def test_any_items_become_a_request_that_the_api_takes(
    examples: int,
) -> None:
    """For the Responses API, the model always lacks `other_items`, `audio` and `reasoning`.

    Drawn items and parts that need one of these abilities may be malformed, and would be sent unchanged.
    """

    @settings(max_examples=examples, deadline=None)
    @given(st.lists(odd_items, max_size=12), st.sets(st.sampled_from(ABILITIES)))
    def property_holds(items: list[Item], drawn: set[str]) -> None:
        for renderer, check in ((CHAT, check_chat), (RESPONSES, check_responses)):
            missing = drawn if renderer == CHAT else drawn | {"other_items", "audio", "reasoning"}
            body = body_of(renderer, items, missing)
            check(body)
            left_out = unsendable(renderer, items)
            sent = [item for index, item in enumerate(items) if index not in left_out]
            # Only abilities that the sent items need are recorded.
            recorded = needed_abilities(renderer, sent) & missing
            assert render_items(renderer, sent, recorded) == render_items(renderer, items, missing)
            if renderer == RESPONSES:
                assert len(body["input"]) == sum(item["type"] != "reasoning" for item in sent)
            assert (
                body_of(renderer, [*items, note("user", "more")], missing)[_list(renderer)][:-1]
                == body[_list(renderer)]
            )

    property_holds()


def render_items(renderer: int, items: list[Item], missing: Iterable[str]) -> bytes:
    body = render(
        renderer, model="m", instructions=[], summary=None, items=items, parameters={}, missing=frozenset(missing)
    )
    return msgspec.json.encode(body)


def _list(renderer: int) -> str:
    return "messages" if renderer == CHAT else "input"
