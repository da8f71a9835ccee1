"""If a client sends a listed item back, the fields that the list added are not stored. Also tests the previews of items."""

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
def test_an_item_that_was_listed_is_stored_without_the_fields_that_the_list_added(item: Item) -> None:
    assert without_listed_fields({**item, **ADDED}) == item
    assert without_listed_fields(item) is item


def test_an_item_of_an_unknown_type_that_was_not_listed_keeps_fields_with_the_names_of_listed_fields() -> None:
    item = {"type": "agent_message", "author": "agent", "model": "of its own"}
    assert without_listed_fields(item) == item


def test_a_preview_is_one_line_of_at_most_80_characters() -> None:
    assert preview_of({"role": "user", "content": " a \n\n b" + "c" * 90}) == "a b" + "c" * 77
    assert preview_of({"type": "function_call", "name": "f", "arguments": "{}"}) == "f({})"
    assert preview_of({"type": "custom_tool_call", "name": "f", "input": "x"}) == "f(x)"
    assert preview_of({"type": "function_call_output", "output": "out"}) == "out"
    assert preview_of({"type": "function_call_output", "output": [{}]}) == preview_of({"type": "reasoning"}) == ""
