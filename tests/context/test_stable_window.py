"""The stable window begins where it began for the last request, as long as the new request fits.

Otherwise the window moves forward.
"""

from functools import partial

import pytest

from context.rendering import CHAT, unsendable
from context.selection import ContextInput, ContextItem, Selection, StableWindow, select
from domain.errors import ContextTooLong
from domain.events import LeftOut
from domain.items import Item

USER: Item = {"type": "message", "role": "user", "content": "q"}
ASSISTANT: Item = {"type": "message", "role": "assistant", "content": "a"}


def turns(first: int, last: int, tokens: int = 5) -> list[ContextItem]:
    """Turn n has the question at depth 2n - 1 and the answer at 2n."""
    return [
        ContextItem(item_id=f"msg_{depth}", stored=item, tokens=tokens, depth=depth)
        for turn in range(first, last + 1)
        for depth, item in ((2 * turn - 1, USER), (2 * turn, ASSISTANT))
    ]


def question(depth: int, tokens: int = 5) -> list[ContextItem]:
    return [ContextItem(item_id="msg_new", stored=USER, tokens=tokens, depth=depth)]


def selected(context_input: ContextInput, budget: int, stands_at: int | None = None, refill: float = 0.6) -> Selection:
    stable = StableWindow(refill=refill, first_depth=stands_at)
    return select(context_input, budget, partial(unsendable, CHAT), stable)


def first_depth(selection: Selection) -> int | None:
    """None if the window is empty."""
    return selection.window[0].depth if selection.window else None


def test_the_window_stays_as_long_as_the_request_fits() -> None:
    stands_at: int | None = None
    begins: list[int | None] = []
    for answered in range(25):  # a turn has 10 tokens, and the budget is 100 tokens
        selection = selected(ContextInput(path=turns(1, answered), input=question(0, 10)), 100, stands_at)
        stands_at = first_depth(selection) or 1
        begins.append(stands_at)
        assert selection.tokens <= 100
    # At the eleventh turn, five turns and the question stay.
    assert begins == [*[1] * 10, *[11] * 5, *[21] * 5, *[31] * 5]


def test_the_first_window_leaves_room_if_not_all_turns_fit() -> None:
    assert first_depth(selected(ContextInput(path=turns(1, 9), input=question(19)), 95)) == 1
    assert first_depth(selected(ContextInput(path=turns(1, 9), input=question(19)), 94)) == 9
    not_all_read = ContextInput(path=turns(4, 9), input=question(19), reaches_start=False, unread=6)
    selection = selected(not_all_read, 94)
    assert (first_depth(selection), selection.left_out) == (9, (LeftOut(reason="budget", last="msg_8", count=8),))


def test_the_window_never_moves_back_by_itself() -> None:
    assert first_depth(selected(ContextInput(path=turns(1, 9), input=question(19)), 1000, stands_at=13)) == 13
    # The window's first turn is deleted.
    gap = [item for item in turns(1, 9) if item.depth not in (13, 14)]
    assert first_depth(selected(ContextInput(path=gap, input=question(19)), 1000, stands_at=13)) == 15
    # The window of the last request was empty.
    assert first_depth(selected(ContextInput(path=turns(1, 9), input=question(19)), 1000, stands_at=19)) is None


def test_the_window_moves_if_it_began_before_the_items_that_were_read() -> None:
    path = turns(4, 9)
    not_all_read = ContextInput(path=path, input=question(19), reaches_start=False)
    assert first_depth(selected(not_all_read, 60, stands_at=5)) == 13
    # The start was read, so the missing items were deleted.
    assert first_depth(selected(ContextInput(path=path, input=question(19)), 65, stands_at=5)) == 7


@pytest.mark.parametrize(("refill", "begins"), [(0.1, None), (0.3, 15), (0.9, 5)])
def test_refill_says_how_far_the_window_moves(refill: float, begins: int | None) -> None:
    context_input = ContextInput(path=turns(1, 9), input=question(19))
    assert first_depth(selected(context_input, 90, stands_at=1, refill=refill)) == begins


def test_without_room_for_older_turns_only_the_newest_turn_is_shown() -> None:
    context_input = ContextInput(path=turns(1, 3), input=question(7), base_tokens=70)
    selection = selected(context_input, 100, stands_at=1)
    assert (first_depth(selection), selection.tokens) == (None, 75)
    # Without a user message, the input belongs to the last turn.
    answer = [ContextItem(item_id="msg_new", stored=ASSISTANT, tokens=5)]
    selection = selected(ContextInput(path=turns(1, 3), input=answer, base_tokens=70), 100, stands_at=1)
    assert (first_depth(selection), selection.tokens) == (5, 85)
    with pytest.raises(ContextTooLong) as refused:
        selected(ContextInput(path=turns(1, 3), input=answer, base_tokens=70), 84, stands_at=1)
    assert (refused.value.tokens, refused.value.budget) == (85, 84)


def test_the_window_moves_back_to_the_call_of_a_new_output() -> None:
    call: Item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output: Item = {"type": "function_call_output", "call_id": "c", "output": "1"}
    path = turns(1, 9)
    path[3] = ContextItem(item_id="fc_4", stored=call, tokens=5, depth=4)
    context_input = ContextInput(path=path, input=[ContextItem(item_id="fco", stored=output, tokens=5)])
    assert first_depth(selected(context_input, 1000, stands_at=13)) == 3
