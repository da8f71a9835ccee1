"""Random items with links. Each link must lead to the last earlier item that it names."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from commands.item_links import link, linked, open_links
from domain.commands import NewItem
from domain.items import Item, as_stored, from_stored

names = st.sampled_from(["a", "b", "c"])


def optional(**fields: Any) -> Item:
    return {name: value for name, value in fields.items() if value is not None}


requests = names.map(lambda name: {"type": "mcp_approval_request", "id": name})
approvals = names.map(lambda name: {"type": "mcp_approval_response", "approval_request_id": name})
calls = st.builds(
    lambda item_id, call_id: optional(type="local_shell_call", id=item_id, call_id=call_id), names, st.none() | names
)
outputs = st.builds(
    lambda item_id, call_id: optional(type="local_shell_call_output", id=item_id, call_id=call_id),
    names,
    st.none() | names,
)
others = names.map(lambda name: {"type": "message", "role": "user", "content": name, "id": name})
sequences = st.lists(st.one_of(requests, approvals, calls, outputs, others), max_size=12)


def expected(items: list[tuple[str, Item]], index: int) -> Any:
    """The link of the item at `index`, by a second, simple implementation."""
    item = items[index][1]
    if item["type"] == "mcp_approval_response":
        named = [
            own
            for own, earlier in items[:index]
            if earlier.get("id") == item["approval_request_id"] and earlier["type"] == "mcp_approval_request"
        ]
        return named[-1] if named else item["approval_request_id"]
    name = item.get("call_id") or item["id"]
    calls_before = [earlier for _, earlier in items[:index] if earlier["type"] == "local_shell_call"]
    if any(name == (call.get("call_id") or call["id"]) for call in calls_before):
        return name  # a `call_id` is preferred to an `id`
    found = [call["call_id"] for call in calls_before if name == call["id"]]
    return found[-1] if found else item.get("call_id")


@given(sequences)
def test_each_link_leads_to_the_last_earlier_item_that_it_names(sequence: list[Item]) -> None:
    items = [(f"ours_{index}", item) for index, item in enumerate(sequence)]
    result = link(items)
    fields = {"mcp_approval_response": "approval_request_id", "local_shell_call_output": "call_id"}
    for index, (item_id, item) in enumerate(result):
        before = sequence[index]
        field = fields.get(before["type"])
        assert item_id == items[index][0]
        if field is not None:
            assert item.get(field) == expected(items, index)
        unlinked = {name: value for name, value in item.items() if name not in ("call_id", field)}
        assert unlinked == {name: value for name, value in before.items() if name not in ("call_id", field)}
    # Linking again changes nothing. `linked` links stored items in the same way.
    assert link(result) == result
    new = [NewItem(item_id=item_id, item=as_stored(item)) for item_id, item in items]
    assert [(one.item_id, from_stored(one.item)) for one in linked(new)] == result
    open_ones = {index for index, item in enumerate(sequence) if item["type"] in fields} & open_links(result).keys()
    for index in open_ones:
        field = fields[sequence[index]["type"]]
        assert result[index][1].get(field) == sequence[index].get(field)
