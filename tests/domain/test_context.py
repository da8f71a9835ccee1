"""What a model is shown: the newest whole turns that fit, whatever the conversation looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.context import Candidate, begins_turn, newest_turns
from domain.errors import ContextTooLong
from domain.items import Item

USER: Item = {"type": "message", "role": "user", "content": "q"}
ASSISTANT: Item = {"type": "message", "role": "assistant", "content": "a"}
CALL: Item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c", "output": "1"}


def candidates(*items: tuple[Item, int]) -> list[Candidate]:
    return [Candidate(item_id=f"msg_{n}", item=item, tokens=tokens) for n, (item, tokens) in enumerate(items)]


def test_all_is_shown_where_all_fits() -> None:
    path = candidates((USER, 10), (ASSISTANT, 10))
    chosen = newest_turns(path, always=5, asked=5, budget=30, whole=True)
    assert (chosen.shown, chosen.left_out, chosen.tokens) == (tuple(path), 0, 30)


def test_a_turn_that_does_not_fit_is_left_out_whole() -> None:
    path = candidates((USER, 10), (ASSISTANT, 10), (USER, 10), (CALL, 5), (OUTPUT, 5), (ASSISTANT, 10))
    chosen = newest_turns(path, always=0, asked=5, budget=49, whole=True)
    assert (chosen.shown, chosen.left_out, chosen.tokens) == (tuple(path[2:]), 2, 35)


def test_the_end_of_a_turn_whose_beginning_is_not_there_is_not_shown() -> None:
    path = candidates((ASSISTANT, 1), (USER, 1), (ASSISTANT, 1))
    assert newest_turns(path, always=0, asked=1, budget=100, whole=False).shown == tuple(path[1:])
    assert newest_turns(path, always=0, asked=1, budget=100, whole=True).shown == tuple(path)


def test_a_question_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextTooLong) as refused:
        newest_turns([], always=5, asked=6, budget=10, whole=True)
    assert (refused.value.tokens, refused.value.budget) == (11, 10)


@given(
    st.lists(st.tuples(st.sampled_from([USER, ASSISTANT, CALL, OUTPUT]), st.integers(0, 50)), max_size=60),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(100, 800),
    st.booleans(),
)
def test_the_budget_is_never_passed_no_turn_is_cut_and_no_turn_that_fits_is_left_out(
    items: list[tuple[Item, int]], always: int, asked: int, budget: int, whole: bool
) -> None:
    path = candidates(*items)
    chosen = newest_turns(path, always=always, asked=asked, budget=budget, whole=whole)
    assert chosen.tokens == always + asked + sum(each.tokens for each in chosen.shown) <= budget
    assert chosen.shown == tuple(path[chosen.left_out :])
    if chosen.shown:
        assert begins_turn(chosen.shown[0].item) or (whole and chosen.left_out == 0)
    starts = [n for n, each in enumerate(path) if begins_turn(each.item) or (n == 0 and whole)]
    longer = [n for n in starts if n < chosen.left_out]
    assert all(always + asked + sum(each.tokens for each in path[n:]) > budget for n in longer)
