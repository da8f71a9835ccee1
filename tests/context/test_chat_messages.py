"""Messages of the Chat Completions API as items, and items as messages."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from context.transcripts.chat_messages import (
    MadeMessage,
    answer_message,
    custom_calls,
    is_in_transcripts,
    items_of,
    messages_of,
    one_message,
)
from context.transcripts.message_changes import changed, changes_between
from domain.items import checked_item

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"the sky"}'}}
CALL_ITEM = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at":"the sky"}'}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "write", "input": "a poem"}}
CUSTOM_ITEM = {"type": "custom_tool_call", "call_id": "call_2", "name": "write", "input": "a poem"}
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 1_000
USER: dict[str, Any] = {"role": "user", "content": "Hello"}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


PLAIN: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (USER, [message("user", "Hello")]),
    ({"role": "system", "content": "Be brief"}, [message("system", "Be brief")]),
    ({"role": "developer", "content": "Be brief"}, [message("developer", "Be brief")]),
    ({"role": "assistant", "content": "Hi"}, [message("assistant", "Hi")]),
    ({"role": "assistant", "content": ""}, [message("assistant", "")]),
    ({"role": "assistant", "tool_calls": [CALL, CUSTOM]}, [CALL_ITEM, CUSTOM_ITEM]),
    ({"role": "assistant", "content": "I look", "tool_calls": [CALL]}, [message("assistant", "I look"), CALL_ITEM]),
    ({"role": "assistant", "refusal": "No"}, [message("assistant", [{"type": "refusal", "refusal": "No"}])]),
    (
        {"role": "assistant", "content": "Well.", "refusal": "No"},
        [message("assistant", [{"type": "output_text", "text": "Well."}, {"type": "refusal", "refusal": "No"}])],
    ),
    ({"role": "assistant", "audio": {"id": "a_1"}}, [message("assistant", [{"type": "output_audio", "id": "a_1"}])]),
    (
        {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
        [{"type": "function_call", "call_id": "function_call_look", "name": "look", "arguments": "{}"}],
    ),
    (
        {"role": "function", "name": "look", "content": "blue"},
        [{"type": "function_call_output", "call_id": "function_call_look", "output": "blue"}],
    ),
    (
        {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
        [{"type": "function_call_output", "call_id": "call_1", "output": "blue"}],
    ),
    (
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": t} for t in ("roses", "red")]},
        [
            {
                "type": "custom_tool_call_output",
                "call_id": "call_2",
                "output": [{"type": "input_text", "text": t} for t in ("roses", "red")],
            }
        ],
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Compare", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,QQ==", "filename": "a.txt"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
            ],
        },
        [
            message(
                "user",
                [
                    {"type": "input_text", "text": "Compare", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_image", "image_url": PICTURE, "detail": "low"},
                    {"type": "input_image", "image_url": "https://example.com/a.png"},
                    {"type": "input_file", "file_data": "data:text/plain;base64,QQ==", "filename": "a.txt"},
                    {"type": "input_file", "file_id": "file-1"},
                    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
                ],
            )
        ],
    ),
]


@pytest.mark.parametrize(("sent", "items"), PLAIN)
def test_a_plain_message_becomes_items_and_comes_back_unchanged(
    sent: dict[str, Any], items: list[dict[str, Any]]
) -> None:
    stored = items_of(sent, custom_calls=custom_calls([{"role": "assistant", "tool_calls": [CUSTOM]}]))
    assert stored == items
    assert all(checked_item(item) for item in stored)
    assert messages_of(stored) == [MadeMessage(sent, len(items))]


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "Hello"}]}, USER),
        ({"role": "user", "content": "Hello", "name": "Ada", "mood": "good"}, USER),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]},
            USER,
        ),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "tool_calls": [CALL]}),
        ({"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "assistant", "tool_calls": [CALL]}),
        (
            {"role": "assistant", "content": "Hi", "tool_calls": [], "refusal": None, "reasoning_content": "Hm"},
            {"role": "assistant", "content": "Hi"},
        ),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
            {"role": "assistant", "content": "Hi"},
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            {"role": "assistant", "refusal": "No"},
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "index": 0, "function": {**CALL["function"], "parsed": 1}}]},  # type: ignore[dict-item]
            {"role": "assistant", "tool_calls": [CALL]},
        ),
        (
            {"role": "function", "name": "look", "content": None},
            {"role": "function", "name": "look", "content": ""},
        ),
    ],
)
def test_changes_hold_what_a_message_loses_when_it_becomes_items(sent: dict[str, Any], plain: dict[str, Any]) -> None:
    [made_message] = messages_of(items_of(sent))
    assert made_message.message == plain
    changes = changes_between(plain, sent)
    assert changes is not None
    assert changed(plain, changes) == sent


def test_items_of_other_types_are_counted_with_a_message() -> None:
    reasoning = {"type": "reasoning", "summary": []}
    search = {"type": "web_search_call", "status": "completed"}
    answer = message("assistant", [{"type": "output_text", "text": "Hi"}])
    assert [is_in_transcripts(item) for item in (reasoning, search, answer, CALL_ITEM)] == [False, False, True, True]
    assert messages_of([reasoning]) == []
    assert messages_of([reasoning, message("user", "Hello"), reasoning, answer, search, CALL_ITEM, reasoning]) == [
        MadeMessage(USER, 2),
        MadeMessage({"role": "assistant", "content": "Hi", "tool_calls": [CALL]}, 5),
    ]


def test_calls_that_follow_no_assistant_message_become_messages_of_their_own() -> None:
    output = {"type": "function_call_output", "call_id": "call_1", "output": "blue"}
    made_messages = messages_of([message("user", "Hello"), CALL_ITEM, output, CUSTOM_ITEM, message("assistant", "Hi")])
    assert [(one.message["role"], one.count) for one in made_messages] == [
        ("user", 1),
        ("assistant", 1),
        ("tool", 1),
        ("assistant", 1),
        ("assistant", 1),
    ]


def test_an_answer_of_several_items_is_one_message() -> None:
    first = message("assistant", [{"type": "output_text", "text": "One "}, {"type": "output_text", "text": "two"}])
    second = message("assistant", [{"type": "output_text", "text": " three"}])
    assert answer_message([{"type": "reasoning", "summary": []}, first, CALL_ITEM, second, CUSTOM_ITEM]) == {
        "role": "assistant",
        "content": "One two three",
        "tool_calls": [CALL, CUSTOM],
    }
    assert answer_message([]) == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "part",
    [{"type": "refusal"}, {"type": "output_audio"}, {"type": "input_image", "file_id": "f"}, {"type": "input_file"}],
)
def test_items_with_unusual_parts_can_be_made_into_messages(part: dict[str, Any]) -> None:
    for role in ("user", "assistant"):
        assert len(messages_of([message(role, [part])])) == 1


@pytest.mark.parametrize("output", [[1], [None], ["x"], [[]], []])
def test_an_output_with_any_list_can_be_made_into_a_message(output: list[Any]) -> None:
    item = checked_item({"type": "function_call_output", "call_id": "call_1", "output": output})
    assert one_message([item]) == {"role": "tool", "tool_call_id": "call_1", "content": output}


LONG = "A long answer with many words, which nobody wants to store twice. " * 20
PICTURES = {
    "role": "user",
    "content": [{"type": "text", "text": "See"}, *([{"type": "image_url", "image_url": {"url": PICTURE}}] * 2)],
}


@pytest.mark.parametrize(
    ("plain", "sent"),
    [
        (LONG, LONG.strip()),
        (f"<think>{LONG}</think>{LONG}", LONG),
        (LONG, f"  {LONG}\n"),
        (LONG, LONG.replace("many", "some", 1)),
        (f"{LONG}<think>hm</think>{LONG}", LONG + LONG),
        (LONG, [{"type": "text", "text": LONG}]),
        (LONG, [{"type": "text", "text": LONG.strip(), "cache_control": {"type": "ephemeral"}}]),
        ([{"type": "text", "text": LONG}, {"type": "text", "text": LONG}], LONG + LONG),
        (PICTURES["content"], PICTURES["content"][1:]),
        (PICTURES["content"], [{"type": "text", "text": "Look"}, *PICTURES["content"][1:]]),
        (
            PICTURES["content"],
            [*PICTURES["content"][:2], {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}}],
        ),
        (PICTURES["content"], [{"type": "text", "text": "More"}, *PICTURES["content"]]),
    ],
)
def test_changes_do_not_repeat_content_that_the_items_have(plain: Any, sent: Any) -> None:
    before, after = {"role": "user", "content": plain}, {"content": sent, "role": "user"}
    changes = changes_between(before, after)
    assert changes is not None
    assert len(changes) < 200
    assert changed(before, changes) == after


def test_equal_messages_have_no_changes_whatever_the_order_of_their_fields() -> None:
    assert changes_between(USER, {"content": "Hello", "role": "user"}) is None
    assert changed(USER, None) == USER


@pytest.mark.parametrize(("left", "right"), [(1, 1.0), (1, True), (0.0, -0.0), (None, False), ("1", 1), ([1], [True])])
def test_values_with_different_json_texts_are_told_apart(left: Any, right: Any) -> None:
    changes = changes_between({"mood": left}, {"mood": right})
    assert changes is not None
    assert repr(changed({"mood": left}, changes)) == repr({"mood": right})


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | texts
parts = st.builds(lambda text: {"type": "text", "text": text}, texts)
values = st.recursive(
    scalars | parts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
messages = st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "name"]), values | st.lists(parts, max_size=4)
)


@given(messages, messages)
def test_a_message_can_be_made_from_any_other_message_and_the_changes(
    plain: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert repr_sorted(changed(plain, changes_between(plain, sent))) == repr_sorted(sent)


def repr_sorted(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((name, repr_sorted(inner)) for name, inner in value.items()))
    return repr([repr_sorted(inner) for inner in value]) if isinstance(value, list) else repr(value)


extra = st.dictionaries(st.sampled_from(["name", "mood"]), scalars, max_size=2)
chat_parts = st.one_of(
    parts,
    texts.map(lambda url: {"type": "image_url", "image_url": {"url": url, "detail": "low"}}),
    texts.map(lambda data: {"type": "file", "file": {"file_data": data, "filename": "a"}}),
    texts.map(lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}),
    texts.map(lambda data: {"type": "other", "other": data}),
)
calls = st.one_of(
    st.builds(lambda name: {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}, texts),
    st.builds(lambda name: {"id": "call_2", "type": "custom", "custom": {"name": name, "input": "x"}}, texts),
)
sent_messages = st.one_of(
    st.builds(
        lambda role, content, more: {"role": role, "content": content} | more,
        st.sampled_from(["user", "system", "developer"]),
        texts | st.lists(chat_parts, min_size=1, max_size=3),
        extra,
    ),
    st.builds(
        lambda content, more: {"role": "tool", "tool_call_id": "call_1", "content": content} | more,
        texts | st.lists(parts, min_size=1, max_size=3),
        extra,
    ),
    st.builds(
        lambda content, refusal, tool_calls, more: (
            {
                "role": "assistant",
                "content": content,
                "refusal": refusal,
                "tool_calls": tool_calls,
            }
            | more
        ),
        st.none() | texts | st.lists(parts | texts.map(lambda text: {"type": "refusal", "refusal": text}), max_size=3),
        st.none() | texts,
        st.lists(calls, max_size=3),
        extra,
    ),
)


@given(sent_messages)
def test_the_items_of_a_message_make_one_plain_message(sent: dict[str, Any]) -> None:
    items = items_of(sent)
    assert items
    assert all(checked_item(item) for item in items)
    [made_message] = messages_of(items)
    plain = made_message.message
    assert made_message.count == len(items)
    assert changed(plain, changes_between(plain, sent)) == sent
    assert [message.message for message in messages_of(items_of(plain))] == [plain]
    assert None not in plain.values()
