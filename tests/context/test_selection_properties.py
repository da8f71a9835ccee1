"""Random conversations: whatever they hold, what a model is shown fits, is whole, and is the same each time.

scripts/test tests/domain/test_context_properties.py -m endless     ten thousand
"""

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from context.rendering import CHAT, counted_text, fixed_tokens, render, unsendable
from context.rendering.orphans import call_key, is_output, orphans
from context.selection import ContextInput, ContextItem, begins_turn, select, window_starts
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
        lambda it: {"type": "function_call", "call_id": it[0], "name": "look", "arguments": it[1]}
    ),
    st.tuples(call_ids, texts).map(lambda it: {"type": "function_call_output", "call_id": it[0], "output": it[1]}),
    st.just({"type": "reasoning", "summary": []}),
)


def candidate(index: int, item: Item, pinned: bool) -> ContextItem:
    tokens = count(counted_text(item)) + fixed_tokens(item)
    return ContextItem(item_id=f"msg_{index}", item=item, tokens=tokens, depth=index + 1, pinned=pinned)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[ContextInput, str, str | None]:
    """What there is to choose from, the instructions and the summary. Retracted items are gaps in the path."""
    drawn = draw(st.lists(st.tuples(items, st.booleans(), st.integers(0, 9), st.integers(0, 9)), max_size=50))
    path = [candidate(n, item, rare == 0) for n, (item, _, rare, gone) in enumerate(drawn) if gone]
    covered = draw(st.integers(0, len(path))) if draw(st.booleans()) else 0
    pins = [each for each in path[:covered] if each.pinned]
    rest = path[covered:]
    asked = [candidate(1000 + n, item, False) for n, item in enumerate(draw(st.lists(items, max_size=4)))]
    instructions, summary = draw(texts), draw(texts) if covered else None
    always = count(instructions) + 4 + (count(summary) + 4 if summary is not None else 0)
    known = ContextInput(
        path=rest,
        pins=pins,
        input=asked,
        base_tokens=always,
        reaches_start=draw(st.booleans()) or summary is not None,
        summarized=LeftOut(reason="summarized", count=covered) if covered else None,
    )
    return known, instructions, summary


def check(drawn: tuple[ContextInput, str, str | None], budget: int) -> None:
    known, instructions, summary = drawn
    everything = [*known.pins, *known.path, *known.input]
    try:
        chosen = select(known, budget, unsent_by_chat)
    except ContextTooLong:
        check_refused(known, budget)
        return
    assert chosen == select(known, budget, unsent_by_chat)
    sent = [each.item for each in chosen.sent]
    # The budget, as tiktoken itself counts what is sent.
    body = render(CHAT, model="m", instructions=[instructions], summary=summary, items=sent, parameters={})
    assert sum(map(count, _texts(body))) <= chosen.tokens <= budget
    # No half of a call, and no whole one is torn apart.
    assert orphans(sent) == {}
    shown = {each.item_id for each in chosen.sent}
    alone = unsent_by_chat([each.item for each in everything])
    for index, each in enumerate(everything):
        if each.pinned and index not in alone:
            assert each.item_id in shown
    # The newest turn, whole: all that is asked, and what it goes on with.
    assert all(each.item_id in shown or index in alone for index, each in enumerate(everything) if each in known.input)
    if not any(begins_turn(each.item) for each in known.input):
        begins = [n for n, each in enumerate(known.path) if begins_turn(each.item)]
        assert len(chosen.window) >= len(known.path) - max(begins, default=0)
    # Nothing is cut inside a turn, and no turn that fits is left out.
    start = len(known.path) - len(chosen.window)
    starts = window_starts(known, unsent_by_chat)
    assert start in starts
    assert list(chosen.window) == list(known.path[start:])
    if earlier := [each for each in starts if each < start]:
        with_one_more = {each.item_id for each in known.path[earlier[-1] :]} | shown
        total = sum(
            each.tokens for n, each in enumerate(everything) if each.item_id in with_one_more and n not in alone
        )
        assert known.base_tokens + total > budget
    # All that is not shown is accounted for.
    if known.reaches_start:
        left = sum(each.count or 0 for each in chosen.left_out if each.reason != "summarized")
        assert left == len({each.item_id for each in everything} - shown)


def check_refused(known: ContextInput, budget: int) -> None:
    """Not even the newest turn fits."""
    with pytest.raises(ContextTooLong) as refused:
        select(known, budget, unsent_by_chat)
    assert refused.value.budget == budget < refused.value.tokens
    if starts := window_starts(known, unsent_by_chat):
        items = [each.item for each in (*known.pins, *known.path, *known.input)]
        alone = unsent_by_chat(items)
        needed = len(known.pins) + starts[-1]
        parts = [*known.pins, *known.path, *known.input]
        newest = sum(each.tokens for n, each in enumerate(parts) if n not in alone and (n >= needed or each.pinned))
        assert refused.value.tokens >= known.base_tokens + newest


def _texts(value: Any) -> list[str]:
    """All that a model reads of a body."""
    return [
        text
        for message in value["messages"]
        for text in (
            message.get("content") or "",
            *(call["function"][name] for call in message.get("tool_calls", ()) for name in ("name", "arguments")),
        )
    ]


@pytest.mark.parametrize("examples", [A_FEW, pytest.param(TEN_THOUSAND, marks=pytest.mark.endless)])
def test_whatever_a_conversation_holds_what_is_shown_fits_is_whole_and_is_the_same_each_time(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(conversations(), st.integers(0, 900))
    def whatever(drawn: tuple[ContextInput, str, str | None], budget: int) -> None:
        check(drawn, budget)

    whatever()


@given(st.lists(items, max_size=30))
def test_what_is_left_without_those_that_are_alone_has_none_that_is(path: list[Item]) -> None:
    assume(any(call_key(item) for item in path))
    alone = orphans(path)
    kept = [item for index, item in enumerate(path) if index not in alone]
    assert orphans(kept) == {}
    assert sum(is_output(item) for item in kept) * 2 == sum(call_key(item) is not None for item in kept)
