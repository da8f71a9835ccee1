"""The fields that lists add to items are not stored. A preview of an item is one short line."""

import pytest

from domain.items import Item, preview_of, without_listed_fields

ADDED = {"created_at": 1, "author": "ann", "model": "m", "siblings": {"index": 0, "count": 2}}


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"type": "of_the_future", "text": "hi"},
    ],
)
def test_a_listed_item_is_stored_without_the_added_fields(item: Item) -> None:
    assert without_listed_fields({**item, **ADDED}) == item
    assert without_listed_fields(item) is item


def test_an_unlisted_item_of_an_unknown_type_keeps_its_author_and_model() -> None:
    item = {"type": "agent_message", "author": "agent", "model": "of its own"}
    assert without_listed_fields(item) == item


def test_a_preview_is_one_line_of_at_most_80_characters() -> None:
    assert preview_of({"role": "user", "content": " a \n\n b" + "c" * 90}) == "a b" + "c" * 77
    assert preview_of({"type": "function_call", "name": "f", "arguments": "{}"}) == "f({})"
    assert preview_of({"type": "custom_tool_call", "name": "f", "input": "x"}) == "f(x)"
    assert preview_of({"type": "function_call_output", "output": "out"}) == "out"
    assert preview_of({"type": "function_call_output", "output": [{}]}) == preview_of({"type": "reasoning"}) == ""
