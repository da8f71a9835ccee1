"""Random conversations and windows. The items that a model is shown fit in the budget, and no turn is cut.

`scripts/test tests/context/test_selection_properties.py -m endless` tries ten thousand conversations.
"""

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from context.item_tokens import counted_text, fixed_tokens
from context.rendering import CHAT, noted_item, render, unsendable
from context.rendering.orphans import call_key, is_output, orphans, pairs
from context.selection import ContextInput, ContextItem, StableWindow, begins_turn, select, window_starts
from context.tokens import count
from domain.errors import ContextTooLong
from domain.events import LeftOut
from domain.items import Item

TEN_THOUSAND = 10_000
A_FEW = 150

unsent_by_chat = partial(unsendable, CHAT)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
call_ids = st.sampled_from("abcde")
items: st.SearchStrategy[Item] = st.one_of(
    texts.map(lambda text: {"type": "message", "role": "user", "content": text}),
    texts.map(lambda text: {"type": "message", "role": "assistant", "content": text}),
    st.tuples(call_ids, texts).map(
        lambda drawn: {"type": "function_call", "call_id": drawn[0], "name": "look", "arguments": drawn[1]}
    ),
    st.tuples(call_ids, texts).map(
        lambda drawn: {"type": "function_call_output", "call_id": drawn[0], "output": drawn[1]}
    ),
    st.just({"type": "reasoning", "summary": []}),
)


def context_item(index: int, item: Item, pinned: bool) -> ContextItem:
    noted = noted_item(CHAT, item, ())
    as_sent = noted.item if noted else item
    tokens = count(counted_text(as_sent)) + fixed_tokens(as_sent)
    return ContextItem(item_id=f"msg_{index}", stored=item, tokens=tokens, depth=index + 1, pinned=pinned)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[ContextInput, str, str | None]:
    """(what to choose from, instructions, summary or None). Retracted items leave gaps in the depths."""
    drawn = draw(st.lists(st.tuples(items, st.booleans(), st.integers(0, 9), st.integers(0, 9)), max_size=50))
    path = [context_item(n, item, rare == 0) for n, (item, _, rare, not_retracted) in enumerate(drawn) if not_retracted]
    covered = draw(st.integers(0, len(path))) if draw(st.booleans()) else 0
    pins = [item for item in path[:covered] if item.pinned]
    rest = path[covered:]
    new_items = [context_item(1000 + n, item, False) for n, item in enumerate(draw(st.lists(items, max_size=4)))]
    instructions, summary = draw(texts), draw(texts) if covered else None
    base_tokens = count(instructions) + 4 + (count(summary) + 4 if summary is not None else 0)
    context_input = ContextInput(
        path=rest,
        pins=pins,
        input=new_items,
        base_tokens=base_tokens,
        reaches_start=draw(st.booleans()) or summary is not None,
        summarized=LeftOut(reason="summarized", count=covered) if covered else None,
    )
    return context_input, instructions, summary


windows: st.SearchStrategy[StableWindow | None] = st.none() | st.builds(
    StableWindow, refill=st.floats(0.1, 0.9), first_depth=st.none() | st.integers(1, 55)
)


def check(drawn: tuple[ContextInput, str, str | None], budget: int, stable: StableWindow | None) -> None:
    context_input, instructions, summary = drawn
    everything = [*context_input.pins, *context_input.path, *context_input.input]
    try:
        selection = select(context_input, budget, unsent_by_chat, stable)
    except ContextTooLong:
        check_refused(context_input, budget, stable)
        return
    assert selection == select(context_input, budget, unsent_by_chat, stable)
    sent = [item.item for item in selection.sent]
    body = render(CHAT, model="m", instructions=[instructions], summary=summary, items=sent, parameters={})
    assert sum(map(count, _texts(body))) <= selection.tokens <= budget
    assert orphans(sent) == {}
    shown = {item.item_id for item in selection.sent}
    unsent = unsent_by_chat([item.item for item in everything])
    for index, item in enumerate(everything):
        if item.pinned and index not in unsent:
            assert item.item_id in shown
    assert all(
        item.item_id in shown or index in unsent for index, item in enumerate(everything) if item in context_input.input
    )
    if not any(begins_turn(item.item) for item in context_input.input):
        begins = [n for n, item in enumerate(context_input.path) if begins_turn(item.item)]
        assert len(selection.window) >= len(context_input.path) - max(begins, default=0)
    start = len(context_input.path) - len(selection.window)
    starts = window_starts(context_input, unsent_by_chat)
    assert start in starts
    assert list(selection.window) == list(context_input.path[start:])
    assert start == expected_start(context_input, starts, budget, stable)
    assert selection.tokens == tokens_from(context_input, start)
    if context_input.reaches_start:
        left_out_count = sum(item.count or 0 for item in selection.left_out if item.reason != "summarized")
        assert left_out_count == len({item.item_id for item in everything} - shown)


def expected_start(context_input: ContextInput, starts: list[int], budget: int, stable: StableWindow | None) -> int:
    """Where the window must begin.

    Without a stable window, this is the first start that fits. With a stable window, this is the previous start if the
    request still fits. Otherwise this is the first later start that leaves room, or the last start.
    """
    sizes = {start: tokens_from(context_input, start) for start in starts}
    if stable is None:
        return next(start for start in starts if sizes[start] <= budget)
    stood_at, path = stable.first_depth or 0, context_input.path
    later = [start for start in starts if start == len(path) or path[start].depth >= stood_at]
    was_read = context_input.reaches_start or (stable.first_depth is not None and path and stood_at >= path[0].depth)
    if was_read and later and sizes[later[0]] <= budget:
        return later[0]
    roomy = [start for start in later[bool(was_read) :] if sizes[start] <= int(budget * stable.refill)]
    return roomy[0] if roomy else starts[-1]


def tokens_from(context_input: ContextInput, start: int) -> int:
    """The tokens of a request whose window begins at `start`, with all pins."""
    everything = [*context_input.pins, *context_input.path, *context_input.input]
    unsent = unsent_by_chat([item.item for item in everything])
    sent = {n for n in range(len(everything)) if n >= len(context_input.pins) + start or everything[n].pinned}
    for pair in pairs([item.item for item in everything]):
        if not unsent.keys() & set(pair) and any(everything[n].pinned for n in pair):
            sent |= set(pair)
    return context_input.base_tokens + sum(everything[n].tokens for n in sent if n not in unsent)


def check_refused(context_input: ContextInput, budget: int, stable: StableWindow | None) -> None:
    """The pinned items and the newest turn must not fit."""
    with pytest.raises(ContextTooLong) as refused:
        select(context_input, budget, unsent_by_chat, stable)
    assert refused.value.budget == budget < refused.value.tokens
    if starts := window_starts(context_input, unsent_by_chat):
        assert refused.value.tokens == tokens_from(context_input, starts[-1])


def _texts(value: Any) -> list[str]:
    """All texts that a model reads."""
    return [
        text
        for message in value["messages"]
        for text in (
            message.get("content") or "",
            *(call["function"][name] for call in message.get("tool_calls", ()) for name in ("name", "arguments")),
        )
    ]


@pytest.mark.parametrize("examples", [A_FEW, pytest.param(TEN_THOUSAND, marks=pytest.mark.endless)])
def test_the_shown_items_fit_and_no_turn_is_cut(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(conversations(), st.integers(0, 900), windows)
    def property_holds(drawn: tuple[ContextInput, str, str | None], budget: int, stable: StableWindow | None) -> None:
        check(drawn, budget, stable)

    property_holds()


@given(st.lists(items, max_size=30))
def test_removing_the_orphans_makes_no_other_item_an_orphan(path: list[Item]) -> None:
    assume(any(call_key(item) for item in path))
    orphaned = orphans(path)
    kept = [item for index, item in enumerate(path) if index not in orphaned]
    assert orphans(kept) == {}
    assert sum(is_output(item) for item in kept) * 2 == sum(call_key(item) is not None for item in kept)
