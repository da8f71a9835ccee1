"""Which items of an input only repeat the history, and which are new.

`scripts/test tests/context/test_repeated_history.py -m endless` tries ten thousand random histories.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context.rendering.orphans import call_key, is_output, pairs
from context.repeated_history import needs_older, repeated
from domain.items import Item, type_of


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": text}


def answer(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def call(call_id: str, arguments: str = "{}") -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": arguments}


def output(call_id: str, text: str = "rain") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def taken(path: Sequence[Item], *input_items: Item) -> list[Item]:
    """The input items that are new. Without calls in the input, the path is read only as far as needed."""
    newest_first: list[Item] = []
    older = list(path)
    while needs_older(newest_first, input_items) and older:
        newest_first.append(older.pop())
        if any(item.get("type") == "function_call" for item in input_items):
            newest_first += older[::-1]
            older = []
    left_out = repeated(newest_first, input_items)
    assert left_out == repeated(path[::-1], input_items) or not older
    return [item for index, item in enumerate(input_items) if index not in left_out]


OPEN_LOOP = [user("Q"), call("a"), output("a"), call("b")]


@pytest.mark.parametrize(
    ("path", "sent", "kept"),
    [
        # The question and an old output are repeated before the new output.
        (OPEN_LOOP, [user("Q"), output("a"), output("b")], [output("b")]),
        (OPEN_LOOP, [user("Q"), call("a"), output("a"), call("b"), output("b")], [call("b"), output("b")]),
        (OPEN_LOOP, [output("a"), output("b"), user("Q")], [output("b"), user("Q")]),
        (OPEN_LOOP, [output("b")], [output("b")]),
        (OPEN_LOOP, [user("Q"), output("b"), output("a")], [output("b")]),
        (OPEN_LOOP, [user("Q"), output("b")], [user("Q"), output("b")]),
        (OPEN_LOOP, [user("other"), output("a"), output("b")], [user("other"), output("b")]),
        # A repeated output may have another text. A repeated message may have another form, but not another text.
        (OPEN_LOOP, [output("a", "sun"), output("b")], [output("b")]),
        (
            OPEN_LOOP,
            [{"role": "user", "content": [{"type": "input_text", "text": "Q"}], "status": "completed"}, output("a"), output("b")],
            [output("b")],
        ),
        # A repeated "yes" is old before the output of an answered call, and new elsewhere.
        ([user("yes"), answer("ok")], [user("yes")], [user("yes")]),
        ([user("yes"), call("a"), output("a"), answer("ok")], [user("yes"), output("a"), user("yes")], [user("yes")]),
        ([user("yes"), answer("ok"), user("yes"), call("a"), output("a")], [user("yes"), user("yes"), output("a")], []),
        ([user("no"), answer("ok"), user("yes"), call("a"), output("a")], [user("yes"), user("yes"), output("a")], [user("yes")]),
        ([user("yes"), answer("ok"), user("no"), call("a"), output("a")], [user("yes"), output("a")], [user("yes")]),
        (
            [user("1"), call("a"), output("a"), answer("A"), user("2"), call("b"), output("b"), call("c")],
            [user("1"), output("a"), user("2"), output("b"), output("c"), user("3")],
            [output("c"), user("3")],
        ),
        # For a call id that is used again, the last call counts.
        ([call("a"), output("a"), answer("A"), call("a")], [output("a")], [output("a")]),
        ([call("a"), output("a")], [call("a", '{"new":1}'), output("a", "new")], [call("a", '{"new":1}'), output("a", "new")]),
        # Of several outputs of one call only the last is taken.
        ([user("Q"), call("a")], [output("a"), output("a")], [output("a")]),
        ([], [call("a"), output("a"), output("a")], [call("a"), output("a")]),
        ([], [call("a"), output("a"), call("a"), output("a")], [call("a"), output("a"), call("a"), output("a")]),
        ([user("Q"), call("a")], [output("a", "wait"), output("a")], [output("a")]),
        (
            [call("a"), output("a", "old"), answer("A"), call("a")],
            [output("a", "old"), output("a", "new")],
            [output("a", "new")],
        ),
        # A repeated call is new if its output is new.
        (
            [user("1"), call("a"), output("a", "old"), answer("A")],
            [user("2"), call("a"), output("a", "new"), user("3")],
            [user("2"), call("a"), output("a", "new"), user("3")],
        ),
        (
            [user("1"), call("a"), output("a"), call("b"), output("b")],
            [user("2"), call("a"), output("a", "new"), output("b")],
            [user("2"), call("a"), output("a", "new")],
        ),
        # Of two calls of one answer, only one has an output.
        (
            [user("Q"), call("a"), call("b"), output("a")],
            [user("Q"), call("a"), call("b"), output("a"), output("b")],
            [output("b")],
        ),
        (
            [user("Q"), call("a", '{"x": 1, "y": [2]}'), output("a")],
            [user("Q"), call("a", '{"y":[2],"x":1}'), output("a"), user("next")],
            [user("next")],
        ),
        (
            [user("Q"), call("a", '{"x": 1}'), output("a", "old")],
            [call("a", '{"x": true}'), output("a", "new")],
            [call("a", '{"x": true}'), output("a", "new")],
        ),
        ([user("Q"), call("a", '{"x": '), output("a")], [call("a", '{"x": '), output("a"), user("next")], [user("next")]),
        ([], [user("Q"), output("lost")], [user("Q"), output("lost")]),
    ],
)  # fmt: skip
def test_only_the_new_items_of_an_input_are_kept(path: list[Item], sent: list[Item], kept: list[Item]) -> None:
    assert taken(path, *sent) == kept


texts = st.sampled_from(["yes", "no", "go on"])
turns = st.builds(
    lambda text, calls, answers: (text, calls, answers), texts, st.lists(texts, max_size=3), st.booleans()
)


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """Each turn is a user's message, perhaps calls with outputs, and perhaps an answer. The last call may lack its output."""
    path: list[Item] = []
    for number, (text, arguments, answers) in enumerate(draw(st.lists(turns, min_size=1, max_size=5))):
        path.append(user(text))
        for call_number, argument in enumerate(arguments):
            path += [call(f"c{number}.{call_number}", argument), output(f"c{number}.{call_number}", argument)]
        if answers:
            path.append(answer(text))
    return path[:-1] if draw(st.booleans()) and is_an_output(path[-1]) else path


def is_an_output(item: Item) -> bool:
    return call_key(item) is not None and is_output(item)


def check_repeats(path: list[Item], keeps: list[bool], text: str) -> None:
    """Sends the history up to its last output, without some of the model's items. Only the new items that follow are taken."""
    answered = max((index for index, item in enumerate(path) if is_an_output(item)), default=-1)
    repeats = [
        item
        for index, item in enumerate(path[: answered + 1])
        if index == answered or is_an_output(item) or is_from_user(item) or keeps[index % len(keeps)]
    ]
    open_calls = {call_key(item) for item in path if call_key(item)} - {
        call_key(path[index]) for _, index in pairs(path)
    }
    new = [output(key[1], "new") for key in sorted(filter(None, open_calls))] + [user(text)]
    assert taken(path, *repeats, *new) == new


def check_messages(path: list[Item], sent: list[Item]) -> None:
    """Nothing after the last output of an answered call is left out."""
    answered = {call_key(path[index]) for _, index in pairs(path)}
    left_out = repeated(path[::-1], sent)
    outputs = [index for index, item in enumerate(sent) if is_an_output(item) and call_key(item) in answered]
    assert all(index <= outputs[-1] for index in left_out) if outputs else not left_out
    for index in left_out:
        assert is_an_output(sent[index]) or sent[index] in path


def is_from_user(item: Item) -> bool:
    return type_of(item) == "message" and item["role"] == "user"


inputs: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(texts.map(user), texts.map(answer), st.sampled_from(["c0.0", "c1.0", "c2.1"]).map(output)), max_size=6
)


@given(histories(), st.lists(st.booleans(), min_size=1, max_size=7), texts)
@settings(max_examples=150, deadline=None)
def test_a_history_sent_again_adds_only_what_is_new(path: list[Item], keeps: list[bool], text: str) -> None:
    check_repeats(path, keeps, text)


@given(histories(), inputs)
@settings(max_examples=150, deadline=None)
def test_nothing_after_the_last_output_of_an_answered_call_is_left_out(path: list[Item], sent: list[Item]) -> None:
    # Inputs with two outputs of one call are not checked, because the first of two new outputs is left out.
    keys = [call_key(item) for item in sent if is_an_output(item)]
    if len(keys) == len(set(keys)):
        check_messages(path, sent)


@pytest.mark.endless
@given(histories(), st.lists(st.booleans(), min_size=1, max_size=7), texts, inputs)
@settings(max_examples=10_000, deadline=None)
def test_random_histories_that_are_sent_again_lose_only_repeated_items(
    path: list[Item], keeps: list[bool], text: str, sent: list[Item]
) -> None:
    check_repeats(path, keeps, text)
    keys = [call_key(item) for item in sent if is_an_output(item)]
    if len(keys) == len(set(keys)):
        check_messages(path, sent)
