"""A model is shown the newest complete turns that fit, and pinned items."""

from functools import partial

import pytest

from context.recorded_selection import recorded_left_out
from context.rendering import CHAT, unsendable
from context.selection import ContextInput, ContextItem, Selection, select
from domain.content_references import inline_reference
from domain.errors import ContentsTooLarge, ContextTooLong
from domain.events import LeftOut
from domain.items import Item

USER: Item = {"type": "message", "role": "user", "content": "q"}
ASSISTANT: Item = {"type": "message", "role": "assistant", "content": "a"}


def call(call_id: str = "c") -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str = "c") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": "1"}


def context_items(*items: tuple[Item, int], begin: int = 0, pinned: tuple[int, ...] = ()) -> list[ContextItem]:
    return [
        ContextItem(item_id=f"msg_{n}", stored=item, tokens=tokens, depth=n, pinned=n in pinned)
        for n, (item, tokens) in enumerate(items, begin)
    ]


def selected(context_input: ContextInput, budget: int) -> Selection:
    return select(context_input, budget, partial(unsendable, CHAT))


def ids(shown: tuple[ContextItem, ...]) -> list[int]:
    return [int(item.item_id.removeprefix("msg_")) for item in shown]


QUESTION = context_items((USER, 5), begin=100)


def test_everything_is_shown_if_it_fits() -> None:
    context_input = ContextInput(path=context_items((USER, 10), (ASSISTANT, 10)), input=QUESTION, base_tokens=5)
    selection = selected(context_input, 30)
    assert (ids(selection.sent), selection.left_out, selection.tokens) == ([0, 1, 100], (), 30)


def test_all_items_of_a_turn_that_does_not_fit_are_left_out() -> None:
    path = context_items((USER, 10), (ASSISTANT, 10), (USER, 10), (call(), 5), (output(), 5), (ASSISTANT, 10))
    selection = selected(ContextInput(path=path, input=QUESTION), 49)
    assert (ids(selection.window), selection.tokens) == ([2, 3, 4, 5], 35)
    assert selection.left_out == (LeftOut(reason="budget", first="msg_0", last="msg_1", count=2),)


def test_a_turn_whose_start_is_missing_is_not_shown() -> None:
    path = context_items((ASSISTANT, 1), (USER, 1), (ASSISTANT, 1))
    selection = selected(ContextInput(path=path, input=QUESTION, reaches_start=False, unread=7), 100)
    assert ids(selection.window) == [1, 2]
    assert selection.left_out == (LeftOut(reason="budget", last="msg_0", count=8),)
    assert ids(selected(ContextInput(path=path, input=QUESTION), 100).window) == [0, 1, 2]


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextTooLong) as refused:
        selected(ContextInput(path=(), input=QUESTION, base_tokens=6), 10)
    assert (refused.value.tokens, refused.value.budget) == (11, 10)


def test_outputs_are_sent_with_the_turn_of_their_call_or_refused() -> None:
    path = context_items((USER, 10), (ASSISTANT, 10), (USER, 10), (call(), 5))
    outputs = context_items((output(), 5), begin=100)
    assert ids(selected(ContextInput(path=path, input=outputs), 20).sent) == [2, 3, 100]
    with pytest.raises(ContextTooLong) as refused:
        selected(ContextInput(path=path, input=outputs), 19)
    assert (refused.value.tokens, refused.value.budget) == (20, 19)


def test_the_window_does_not_start_between_a_call_and_its_output() -> None:
    path = context_items((USER, 10), (call(), 5), (USER, 1), (output(), 1), (USER, 1))
    assert ids(selected(ContextInput(path=path, input=QUESTION), 22).window) == [4]
    assert ids(selected(ContextInput(path=path, input=QUESTION), 23).window) == [0, 1, 2, 3, 4]


def test_pinned_items_of_older_turns_are_shown_with_their_call_or_output() -> None:
    path = context_items((USER, 10), (call(), 5), (output(), 5), (USER, 40), (USER, 1), pinned=(2,))
    selection = selected(ContextInput(path=path, input=QUESTION), 20)
    assert (ids(selection.pins), ids(selection.window), selection.tokens) == ([1, 2], [4], 16)
    assert selection.left_out == (LeftOut(reason="budget", first="msg_0", last="msg_3", count=2),)
    with pytest.raises(ContextTooLong):
        selected(ContextInput(path=path, input=QUESTION), 14)


def test_items_that_a_summary_replaces_are_named_in_left_out() -> None:
    pins = context_items((USER, 3), pinned=(0,))
    summarized = LeftOut(reason="summarized", first="msg_0", last="msg_9", count=10)
    context_input = ContextInput(
        path=context_items((USER, 1), begin=10), pins=pins, input=QUESTION, base_tokens=7, summarized=summarized
    )
    selection = selected(context_input, 100)
    assert (ids(selection.sent), selection.tokens, selection.left_out) == ([0, 10, 100], 16, (summarized,))


def test_items_that_cannot_be_sent_are_named_in_left_out() -> None:
    reasoning: Item = {"type": "reasoning", "summary": []}
    path = context_items((USER, 10), (call("x"), 50), (output("y"), 50), (reasoning, 50), (ASSISTANT, 1))
    selection = selected(ContextInput(path=path, input=QUESTION), 20)
    assert (ids(selection.sent), selection.tokens) == ([0, 4, 100], 16)
    assert [(item.reason, item.first, item.count) for item in selection.left_out] == [
        ("orphaned_call", "msg_1", 1),
        ("orphaned_output", "msg_2", 1),
        ("reasoning", "msg_3", 1),
    ]


def test_a_pinned_call_without_its_output_is_named_in_left_out() -> None:
    path = context_items((USER, 1), (call("x"), 5), (USER, 40), (USER, 1), pinned=(1,))
    selection = selected(ContextInput(path=path, input=QUESTION), 20)
    assert selection.left_out == (
        LeftOut(reason="budget", first="msg_0", last="msg_2", count=2),
        LeftOut(reason="orphaned_call", first="msg_1", last="msg_1", count=1),
    )


def test_an_output_belongs_to_the_newest_earlier_call_with_its_id() -> None:
    path = context_items((USER, 1), (call(), 1), (call(), 1), (output(), 1), (output(), 1), (call(), 1), (output(), 1))
    assert ids(selected(ContextInput(path=path, input=QUESTION), 100).sent) == [0, 2, 3, 5, 6, 100]


def test_with_unknown_input_even_the_newest_turn_may_be_left_out() -> None:
    path = context_items((USER, 100))
    assert selected(ContextInput(path=path, input_unknown=True), 50).sent == ()
    with pytest.raises(ContextTooLong):
        selected(ContextInput(path=path), 50)


def test_the_record_of_what_was_left_out_is_bounded() -> None:
    many = [LeftOut(reason=f"r{n % 2}", first=f"f{n}", last=f"l{n}", count=1) for n in range(40)]
    assert recorded_left_out(many) == (
        LeftOut(reason="r0", first="f0", last="l38", count=20),
        LeftOut(reason="r1", first="f1", last="l39", count=20),
    )
    assert recorded_left_out(many[:16]) == tuple(many[:16])


def image(size: int) -> Item:
    reference = inline_reference("acme", b"\0" * 32, size, "image/png")
    return {**USER, "content": [{"type": "input_image", "image_url": reference.text}]}


LENGTH = len("data:image/png;base64,") + 400
"""The length of the data URL of an image of 300 bytes."""


def test_older_turns_whose_images_are_too_long_together_are_left_out() -> None:
    path = context_items((image(300), 1), (ASSISTANT, 1), (image(300), 1), (ASSISTANT, 1), (USER, 1), (ASSISTANT, 1))
    question = context_items((image(300), 1), begin=100)
    for max_length, window in ((3 * LENGTH, [0, 1, 2, 3, 4, 5]), (3 * LENGTH - 1, [2, 3, 4, 5]), (LENGTH, [4, 5])):
        selection = select(
            ContextInput(path=path, input=question), 100, partial(unsendable, CHAT), max_content_length=max_length
        )
        assert ids(selection.window) == window
        assert selection.tokens == len(window) + 1
    with pytest.raises(ContentsTooLarge):
        select(ContextInput(path=path, input=question), 100, partial(unsendable, CHAT), max_content_length=LENGTH - 1)


def test_the_images_of_pinned_items_are_counted() -> None:
    path = context_items((image(300), 1), (ASSISTANT, 1), (image(300), 1), (ASSISTANT, 1), pinned=(0,))
    question = context_items((image(300), 1), begin=100)
    context_input = ContextInput(path=path, input=question)
    selection = select(context_input, 100, partial(unsendable, CHAT), max_content_length=2 * LENGTH)
    assert ids(selection.sent) == [0, 100]


def test_a_context_without_a_possible_window_is_refused_as_too_long() -> None:
    seen = {**output(), "output": image(300)["content"]}
    context_input = ContextInput(
        path=context_items((ASSISTANT, 1)), input=context_items((seen, 5), begin=100), reaches_start=False, unread=1
    )
    with pytest.raises(ContextTooLong):
        select(context_input, 100, partial(unsendable, CHAT), max_content_length=1)
