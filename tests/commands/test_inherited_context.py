"""A fork inherits the pinned items and the summary of the path before the fork."""

from typing import Any

from tests.commands.api_client import create_conversation, create_response, create_response_in_fork
from tests.commands.summarizing_store import Store, compactions, talk
from tests.commands.test_withdrawn_summaries import compact, retract, shown_to_model
from tests.log import Log
from tests.scripted_provider import ScriptedProvider


async def fork_at(store: Store, response: dict[str, Any]) -> str:
    return str((await create_response_in_fork(store.api, "And?", response))["conversation"]["id"])


async def fork_of_fork(store: Store, response: dict[str, Any]) -> str:
    return await fork_at(store, await create_response_in_fork(store.api, "two", response))


async def test_a_fork_shows_inherited_pins_until_they_are_unpinned_or_deleted(
    store: Store, provider: ScriptedProvider
) -> None:
    origin = await create_conversation(store.api, context_policy={"budget": 500})
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": "sky"}'}
    output = {"type": "function_call_output", "call_id": "c", "output": "A rainbow."}
    note = {"type": "message", "role": "user", "content": "My name is Zoe."}
    ids = await store.append(origin, note, call, output, *talk(10))
    for item_id in ids[:2]:
        assert (await store.post(f"{origin}/items/{item_id}/pin")).status_code == 200
    response = await create_response(store.api, "one", conversation=origin)
    [late] = await store.append(origin, {"type": "message", "role": "user", "content": "My name is Ben."})
    assert (await store.post(f"{origin}/items/{late}/pin")).status_code == 200

    fork = await fork_at(store, response)
    grandchild = await fork_of_fork(store, response)
    for request in (
        str(provider.requests[-1]),
        await shown_to_model(store, fork),
        await shown_to_model(store, grandchild),
    ):
        assert all(text in request for text in ("Zoe", "sky", "A rainbow."))
        assert "Ben" not in request
    [own] = await store.append(fork, {"type": "message", "role": "user", "content": "My cat is Tom."})
    assert (await store.post(f"{fork}/items/{own}/pin")).status_code == 200
    await store.append(fork, *talk(10))
    request = await shown_to_model(store, fork)
    assert all(text in request for text in ("Zoe", "sky", "A rainbow.", "Tom"))
    assert (await store.post(f"{fork}/items/{ids[0]}/unpin")).status_code == 200
    assert (await store.post(f"{fork}/items/{late}/unpin")).status_code == 404
    request = await shown_to_model(store, fork)
    assert ("Zoe" in request, "sky" in request, "Tom" in request) == (False, True, True)
    assert "Zoe" in await shown_to_model(store, grandchild)
    assert "Zoe" in await shown_to_model(store, origin)
    await retract(store, origin, ids[0])
    await retract(store, origin, ids[2])
    request = await shown_to_model(store, grandchild)
    assert not any(text in request for text in ("Zoe", "sky", "A rainbow."))


async def test_a_summary_is_inherited_if_its_last_item_lies_before_the_fork(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    origin = await create_conversation(store.api)
    early = await create_response(store.api, "zero", conversation=origin)
    ids = await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of tea.")
    provider.script = lambda exchange: exchange.stream_text("Yes.")
    response = await create_response(store.api, "one", conversation=origin)

    assert "Of tea." not in await shown_to_model(store, await fork_at(store, early))
    fork = await fork_at(store, response)
    assert "Of tea." in str(provider.requests[-1])
    assert "user 0 " not in str(provider.requests[-1])
    request = await shown_to_model(store, fork)
    assert ("Of tea." in request, "user 0 " in request) == (True, False)
    assert "Of tea." in await shown_to_model(store, await fork_of_fork(store, response))
    # Undo brings the inherited summary back.
    await store.append(fork, *talk(40))
    provider.requests.clear()
    await compact(store, provider, fork, "Of tea and cake.")
    assert "Of tea." in str(provider.requests[0])
    [compacted] = compactions(log, fork)
    assert compacted.replaces == 0
    assert compacted.count > compactions(log, origin)[0].count
    assert "Of tea and cake." in await shown_to_model(store, fork)
    assert (await store.post(f"{fork}/compact/undo")).status_code == 200
    request = await shown_to_model(store, fork)
    assert ("Of tea." in request, "Of tea and cake." in request) == (True, False)
    assert (await store.post(f"{fork}/compact/redo")).status_code == 200
    # Both summaries cover this item.
    await retract(store, origin, ids[0])
    request = await shown_to_model(store, fork)
    assert not any(text in request for text in ("Of tea.", "Of tea and cake."))
