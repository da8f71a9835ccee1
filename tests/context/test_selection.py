"""What a model is shown: the newest whole turns that fit, calls with their outputs, pinned items; and each decision has a name."""

from functools import partial

import pytest

from context.rendering import CHAT, unsendable
from context.selection import ContextInput, ContextItem, Selection, on_record, select
from domain.errors import ContextTooLong
from domain.events import LeftOut
from domain.items import Item

USER: Item = {"type": "message", "role": "user", "content": "q"}
ASSISTANT: Item = {"type": "message", "role": "assistant", "content": "a"}


def call(ident: str = "c") -> Item:
    return {"type": "function_call", "call_id": ident, "name": "f", "arguments": "{}"}


def output(ident: str = "c") -> Item:
    return {"type": "function_call_output", "call_id": ident, "output": "1"}


def candidates(*items: tuple[Item, int], begin: int = 0, pinned: tuple[int, ...] = ()) -> list[ContextItem]:
    return [
        ContextItem(item_id=f"msg_{n}", item=item, tokens=tokens, depth=n, pinned=n in pinned)
        for n, (item, tokens) in enumerate(items, begin)
    ]


def chosen(known: ContextInput, budget: int) -> Selection:
    return select(known, budget, partial(unsendable, CHAT))


def ids(shown: tuple[ContextItem, ...]) -> list[int]:
    return [int(each.item_id.removeprefix("msg_")) for each in shown]


QUESTION = candidates((USER, 5), begin=100)


def test_all_is_shown_where_all_fits() -> None:
    known = ContextInput(path=candidates((USER, 10), (ASSISTANT, 10)), input=QUESTION, base_tokens=5)
    selection = chosen(known, 30)
    assert (ids(selection.sent), selection.left_out, selection.tokens) == ([0, 1, 100], (), 30)


def test_a_turn_that_does_not_fit_is_left_out_whole() -> None:
    path = candidates((USER, 10), (ASSISTANT, 10), (USER, 10), (call(), 5), (output(), 5), (ASSISTANT, 10))
    selection = chosen(ContextInput(path=path, input=QUESTION), 49)
    assert (ids(selection.window), selection.tokens) == ([2, 3, 4, 5], 35)
    assert selection.left_out == (LeftOut(reason="budget", first="msg_0", last="msg_1", count=2),)


def test_the_end_of_a_turn_whose_beginning_is_not_there_is_not_shown() -> None:
    path = candidates((ASSISTANT, 1), (USER, 1), (ASSISTANT, 1))
    selection = chosen(ContextInput(path=path, input=QUESTION, reaches_start=False), 100)
    assert ids(selection.window) == [1, 2]
    assert selection.left_out == (LeftOut(reason="budget", last="msg_0"),)
    assert ids(chosen(ContextInput(path=path, input=QUESTION), 100).window) == [0, 1, 2]


def test_a_question_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextTooLong) as refused:
        chosen(ContextInput(path=(), input=QUESTION, base_tokens=6), 10)
    assert (refused.value.tokens, refused.value.budget) == (11, 10)


def test_outputs_alone_go_on_with_the_turn_of_their_call_or_are_refused() -> None:
    path = candidates((USER, 10), (ASSISTANT, 10), (USER, 10), (call(), 5))
    outputs = candidates((output(), 5), begin=100)
    assert ids(chosen(ContextInput(path=path, input=outputs), 20).sent) == [2, 3, 100]
    with pytest.raises(ContextTooLong) as refused:
        chosen(ContextInput(path=path, input=outputs), 19)
    assert (refused.value.tokens, refused.value.budget) == (20, 19)


def test_a_window_may_not_begin_between_a_call_and_its_output() -> None:
    path = candidates((USER, 10), (call(), 5), (USER, 1), (output(), 1), (USER, 1))
    assert ids(chosen(ContextInput(path=path, input=QUESTION), 22).window) == [4]
    assert ids(chosen(ContextInput(path=path, input=QUESTION), 23).window) == [0, 1, 2, 3, 4]


def test_pinned_items_are_shown_with_their_other_half_wherever_they_are() -> None:
    path = candidates((USER, 10), (call(), 5), (output(), 5), (USER, 40), (USER, 1), pinned=(2,))
    selection = chosen(ContextInput(path=path, input=QUESTION), 20)
    assert (ids(selection.pins), ids(selection.window), selection.tokens) == ([1, 2], [4], 16)
    assert selection.left_out == (LeftOut(reason="budget", first="msg_0", last="msg_3", count=2),)
    with pytest.raises(ContextTooLong):
        chosen(ContextInput(path=path, input=QUESTION), 14)


def test_what_a_summary_stands_for_is_named_and_its_pinned_items_are_shown() -> None:
    pins = candidates((USER, 3), pinned=(0,))
    summarized = LeftOut(reason="summarized", first="msg_0", last="msg_9", count=10)
    known = ContextInput(
        path=candidates((USER, 1), begin=10), pins=pins, input=QUESTION, base_tokens=7, summarized=summarized
    )
    selection = chosen(known, 100)
    assert (ids(selection.sent), selection.tokens, selection.left_out) == ([0, 10, 100], 16, (summarized,))


def test_what_is_alone_is_neither_sent_nor_counted_but_named() -> None:
    reasoning: Item = {"type": "reasoning", "summary": []}
    path = candidates((USER, 10), (call("x"), 50), (output("y"), 50), (reasoning, 50), (ASSISTANT, 1))
    selection = chosen(ContextInput(path=path, input=QUESTION), 20)
    assert (ids(selection.sent), selection.tokens) == ([0, 4, 100], 16)
    assert [(each.reason, each.first, each.count) for each in selection.left_out] == [
        ("orphaned_call", "msg_1", 1),
        ("orphaned_output", "msg_2", 1),
        ("reasoning", "msg_3", 1),
    ]


def test_a_pinned_item_that_is_alone_is_named() -> None:
    path = candidates((USER, 1), (call("x"), 5), (USER, 40), (USER, 1), pinned=(1,))
    selection = chosen(ContextInput(path=path, input=QUESTION), 20)
    assert selection.left_out == (
        LeftOut(reason="budget", first="msg_0", last="msg_2", count=2),
        LeftOut(reason="orphaned_call", first="msg_1", last="msg_1", count=1),
    )


def test_of_calls_with_one_id_each_output_answers_the_last_once() -> None:
    path = candidates((USER, 1), (call(), 1), (call(), 1), (output(), 1), (output(), 1), (call(), 1), (output(), 1))
    assert ids(chosen(ContextInput(path=path, input=QUESTION), 100).sent) == [0, 2, 3, 5, 6, 100]


def test_where_the_question_is_not_known_yet_even_the_last_turn_may_be_left_out() -> None:
    path = candidates((USER, 100))
    assert chosen(ContextInput(path=path, input_unknown=True), 50).sent == ()
    with pytest.raises(ContextTooLong):
        chosen(ContextInput(path=path), 50)


def test_what_goes_on_record_does_not_grow_with_what_was_left_out() -> None:
    many = [LeftOut(reason=f"r{n % 2}", first=f"f{n}", last=f"l{n}", count=1) for n in range(40)]
    assert on_record(many) == (
        LeftOut(reason="r0", first="f0", last="l38", count=20),
        LeftOut(reason="r1", first="f1", last="l39", count=20),
    )
    assert on_record(many[:16]) == tuple(many[:16])
