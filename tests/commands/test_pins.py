"""Pinned items are sent to the model even when they are summarized or no longer fit."""

from domain.items import Item
from tests.commands.api_client import create_conversation
from tests.commands.summarizing_store import Store, create_rolling, talk

CALL: Item = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c", "output": "sunny"}


async def test_a_pinned_item_is_sent_even_if_it_is_summarized(store: Store) -> None:
    conversation_id = await create_rolling(store)
    ids = await store.append(conversation_id, *talk(20))
    answer = await store.post(f"{conversation_id}/items/{ids[1]}/pin")
    assert (answer.status_code, answer.json()["id"]) == (200, conversation_id)
    _, context = await store.assemble(conversation_id)
    assert context.shown.summary is not None
    assert (context.shown.ranges[0].first, context.shown.ranges[0].count) == (ids[1], 1)
    assert any("assistant 0 " in sent["content"] for sent in context.fields["messages"])
    assert (await store.post(f"{conversation_id}/items/{ids[1]}/unpin")).status_code == 200
    _, context = await store.assemble(conversation_id)
    assert not any("assistant 0 " in sent["content"] for sent in context.fields["messages"])


async def test_an_old_pinned_call_is_never_sent_without_its_output(store: Store) -> None:
    conversation_id = await create_conversation(store.api, context_policy={"budget": 500})
    ids = await store.append(conversation_id, *talk(1), CALL, OUTPUT, *talk(30))
    await store.post(f"{conversation_id}/items/{ids[2]}/pin")
    _, context = await store.assemble(conversation_id)
    assert [shown.first for shown in context.shown.ranges[:2]] == ids[2:4]
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{ids[3]}")
    _, context = await store.assemble(conversation_id)
    assert "orphaned_call" in [left_out.reason for left_out in context.shown.left_out]
    assert not any("tool_calls" in sent for sent in context.fields["messages"])
