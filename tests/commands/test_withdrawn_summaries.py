"""A summary that covers a deleted item is not sent to a model, and redo does not restore the summary."""

import asyncio
import threading

import pytest

from domain.events import ContextCompacted
from tests.commands.api_client import create_conversation, create_response, error_of
from tests.commands.summarizing_store import Store, compactions, talk
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider


async def compact(store: Store, provider: ScriptedProvider, conversation_id: str, summary: str) -> None:
    """Compacts the conversation. The model writes `summary`."""
    provider.script = lambda exchange: exchange.stream_text(summary)
    answer = await store.post(f"{conversation_id}/compact")
    assert (answer.status_code, answer.json().get("summary")) == (200, summary), answer.text


async def retract(store: Store, conversation_id: str, item_id: str) -> None:
    answer = await store.api.delete(f"/v1/conversations/{conversation_id}/items/{item_id}")
    assert answer.status_code == 200, answer.text


async def shown_to_model(store: Store, conversation_id: str) -> str:
    _, context = await store.assemble(conversation_id)
    return str(context.body)


async def test_a_summary_with_a_retracted_item_is_withdrawn(store: Store, log: Log, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea.")
    ids += await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea and cake.")
    first, second = compactions(log, conversation_id)
    assert "Of tea and cake." in await shown_to_model(store, conversation_id)
    # Only the second summary covers this item.
    await retract(store, conversation_id, ids[second.count - 1])
    assert "Of tea." in await shown_to_model(store, conversation_id)
    assert error_of(await store.post(f"{conversation_id}/compact/redo"))[:2] == (409, "nothing_to_undo")
    assert (await store.post(f"{conversation_id}/compact/undo")).status_code == 200
    assert "Of tea." not in await shown_to_model(store, conversation_id)
    assert (await store.post(f"{conversation_id}/compact/redo")).status_code == 200
    assert "Of tea." in await shown_to_model(store, conversation_id)
    await retract(store, conversation_id, ids[first.count - 1])
    assert "Of tea" not in await shown_to_model(store, conversation_id)
    for action in ("undo", "redo"):
        assert error_of(await store.post(f"{conversation_id}/compact/{action}"))[:2] == (409, "nothing_to_undo")
    provider.requests.clear()
    await compact(store, provider, conversation_id, "Of cake.")
    assert "Of tea" not in str(provider.requests)
    assert "Of cake." in await shown_to_model(store, conversation_id)


async def undo(store: Store, conversation_id: str) -> None:
    answer = await store.post(f"{conversation_id}/compact/undo")
    assert answer.status_code == 200, answer.text


async def redo(store: Store, conversation_id: str) -> None:
    answer = await store.post(f"{conversation_id}/compact/redo")
    assert answer.status_code == 200, answer.text


async def refuses(store: Store, conversation_id: str, *actions: str) -> bool:
    """Whether each action answers `nothing_to_undo`."""
    answers = [await store.post(f"{conversation_id}/compact/{action}") for action in actions]
    return {error_of(answer)[:2] for answer in answers} == {(409, "nothing_to_undo")}


async def compacted_three_times(
    store: Store, provider: ScriptedProvider, conversation_id: str, *, moved: bool
) -> list[str]:
    """Returns the ids of the items. The summaries are "Of tea.", "Of cake." and "Of bread."."""
    ids = await store.append(conversation_id, *talk(40))
    if moved:
        revised = {"item": {"type": "message", "role": "user", "content": "other"}}
        assert (await store.post(f"{conversation_id}/items/{ids[0]}", **revised)).status_code == 200
        assert (await store.post(f"{conversation_id}/head", item=ids[-1])).status_code == 200
    for summary in ("Of tea.", "Of cake.", "Of bread."):
        await compact(store, provider, conversation_id, summary)
        ids += await store.append(conversation_id, *talk(40))
    return ids


@pytest.mark.parametrize("moved", [False, True], ids=["head stayed", "head was moved"])
async def test_undo_and_redo_pass_over_withdrawn_summaries(
    store: Store, log: Log, provider: ScriptedProvider, *, moved: bool
) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await compacted_three_times(store, provider, conversation_id, moved=moved)
    first, second, third = compactions(log, conversation_id)
    await retract(store, conversation_id, ids[third.count - 1])
    assert "Of cake." in await shown_to_model(store, conversation_id)
    await undo(store, conversation_id)
    assert "Of tea." in await shown_to_model(store, conversation_id)
    await retract(store, conversation_id, ids[second.count - 1])
    assert "Of tea." in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "redo")
    await undo(store, conversation_id)
    assert "Of " not in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "undo")
    await redo(store, conversation_id)
    assert "Of tea." in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "redo")
    await retract(store, conversation_id, ids[first.count - 1])
    assert "Of " not in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "undo", "redo")


@pytest.mark.parametrize("moved", [False, True], ids=["head stayed", "head was moved"])
async def test_an_undone_summary_does_not_return_when_a_newer_one_is_withdrawn(
    store: Store, log: Log, provider: ScriptedProvider, *, moved: bool
) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await compacted_three_times(store, provider, conversation_id, moved=moved)
    [*_, third] = compactions(log, conversation_id)
    await retract(store, conversation_id, ids[third.count - 1])
    await undo(store, conversation_id)
    await undo(store, conversation_id)
    ids += await store.append(conversation_id, *talk(1))
    await compact(store, provider, conversation_id, "Of wine.")
    assert await refuses(store, conversation_id, "redo")
    [*_, last] = compactions(log, conversation_id)
    assert last.replaces == 0
    await retract(store, conversation_id, ids[last.count])  # `count` leaves out the retracted item
    assert "Of " not in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "undo", "redo")


async def test_a_summary_stays_when_an_item_after_it_is_retracted(store: Store, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    summary = (await store.post(f"{conversation_id}/compact")).json()["summary"]
    await retract(store, conversation_id, ids[-1])
    assert summary in await shown_to_model(store, conversation_id)


class SlowSummary:
    """Waits for `may_write` before its first answer."""

    def __init__(self) -> None:
        self.writing, self.may_write = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        if not self.writing.is_set():
            self.writing.set()
            assert self.may_write.wait(10)
        exchange.stream_text("Of tea.")


async def test_a_summary_is_not_stored_if_its_items_were_retracted_meanwhile(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    provider.script = slow = SlowSummary()
    compacting = asyncio.create_task(store.post(f"{conversation_id}/compact"))
    await asyncio.to_thread(slow.writing.wait, 10)
    await retract(store, conversation_id, ids[3])
    slow.may_write.set()
    assert error_of(await compacting)[:2] == (409, "summary_changed")
    assert compactions(log, conversation_id) == []


async def test_a_reply_runs_without_the_summary_of_items_retracted_meanwhile(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(
        store.api, context_policy={"strategy": "rolling_summary", "budget": 1_000}
    )
    ids = await store.append(conversation_id, *talk(20))
    provider.script = slow = SlowSummary()
    requesting = asyncio.create_task(create_response(store.api, "And now?", conversation=conversation_id))
    await asyncio.to_thread(slow.writing.wait, 10)
    await retract(store, conversation_id, ids[3])
    slow.may_write.set()
    assert (await requesting)["status"] == "completed"
    assert compactions(log, conversation_id) == []
    assert "Of tea." not in str(provider.requests[-1])


async def forked(store: Store) -> tuple[str, list[str], str]:
    """Returns (a listed conversation, the ids of its items, a fork of the conversation). The fork has a reply of its own."""
    origin = await create_conversation(store.api)
    ids = await store.append(origin, *talk(30))
    await create_response(store.api, "one", conversation=origin)
    fork = (await store.post(f"{origin}/fork")).json()["id"]
    await create_response(store.api, "two", conversation=fork)
    return origin, ids, fork


async def test_a_fork_loses_its_summary_if_the_origin_retracts_a_covered_item(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    origin, ids, fork = await forked(store)
    await compact(store, provider, fork, "Of tea.")
    assert "Of tea." in await shown_to_model(store, fork)
    await retract(store, origin, ids[0])
    assert "Of tea." not in await shown_to_model(store, fork)
    provider.requests.clear()
    await compact(store, provider, fork, "Of cake.")
    assert "user: user 0 " not in str(provider.requests), "the retracted item was summarized again"
    assert "Of tea." not in str(provider.requests)
    assert "Of cake." in await shown_to_model(store, fork)
    assert (await store.post(f"{fork}/compact/undo")).status_code == 200
    assert "Of tea." not in await shown_to_model(store, fork)
    assert (await store.post(f"{fork}/compact/redo")).status_code == 200
    assert "Of cake." in await shown_to_model(store, fork)
    assert (await store.api.delete(f"/v1/conversations/{origin}")).status_code == 200
    assert "Of cake." not in await shown_to_model(store, fork)


async def test_a_fork_does_not_show_the_summary_of_items_retracted_meanwhile(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    origin, ids, fork = await forked(store)
    provider.script = slow = SlowSummary()
    compacting = asyncio.create_task(store.post(f"{fork}/compact"))
    await asyncio.to_thread(slow.writing.wait, 10)
    await retract(store, origin, ids[3])
    slow.may_write.set()
    summary = (await compacting).json()["summary"]
    assert summary not in await shown_to_model(store, fork)


async def test_deleting_an_original_withdraws_a_summary_that_covers_its_copy(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    elsewhere = await create_conversation(store.api)
    [original] = await store.append(elsewhere, talk(1)[0])
    conversation_id = await create_conversation(store.api)
    reference = {"type": "item_reference", "id": original}
    await create_response(store.api, [reference, talk(1)[0]], conversation=conversation_id)
    await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea.")
    assert compactions(log, conversation_id)[0].originals == (original,)
    await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea and cake.")
    assert compactions(log, conversation_id)[1].originals == (original,)
    assert "Of tea and cake." in await shown_to_model(store, conversation_id)
    assert (await store.api.delete(f"/v1/conversations/{elsewhere}")).status_code == 200
    assert "Of tea" not in await shown_to_model(store, conversation_id)
    await compact(store, provider, conversation_id, "Of bread.")
    assert "Of bread." in await shown_to_model(store, conversation_id)
    assert compactions(log, conversation_id)[2].originals == ()


async def test_deleting_later_items_of_the_origin_keeps_the_summary_of_the_fork(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    origin, _, fork = await forked(store)
    later = await store.append(origin, *talk(1))
    await compact(store, provider, fork, "Of tea.")
    await retract(store, origin, later[0])
    assert "Of tea." in await shown_to_model(store, fork)
    [compacted] = compactions(log, fork)
    assert isinstance(compacted, ContextCompacted)
    assert compacted.read_position > 0


async def test_undo_and_redo_in_a_fork_pass_over_summaries_withdrawn_by_deletions_elsewhere(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    elsewhere = await create_conversation(store.api)
    [original] = await store.append(elsewhere, talk(1)[0])
    origin, _, fork = await forked(store)
    await compact(store, provider, fork, "Of tea.")
    await create_response(store.api, [{"type": "item_reference", "id": original}], conversation=fork)
    await store.append(fork, *talk(40))
    await compact(store, provider, fork, "Of cake.")
    assert (await store.api.delete(f"/v1/conversations/{elsewhere}")).status_code == 200
    assert "Of tea." in await shown_to_model(store, fork)
    await undo(store, fork)
    assert "Of " not in await shown_to_model(store, fork)
    assert await refuses(store, fork, "undo")
    await redo(store, fork)
    assert "Of tea." in await shown_to_model(store, fork)
    assert await refuses(store, fork, "redo")
    await undo(store, fork)
    assert (await store.api.delete(f"/v1/conversations/{origin}")).status_code == 200
    assert await refuses(store, fork, "undo", "redo")
