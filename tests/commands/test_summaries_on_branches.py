"""A summary is sent only on paths that contain the last item that the summary covers."""

from typing import Any

from context.summary_changes import PAGE_CHANGES
from tests.commands.api_client import create_conversation, create_response
from tests.commands.summarizing_store import Store, compactions, talk
from tests.commands.test_withdrawn_summaries import compact, redo, refuses, retract, shown_to_model, undo
from tests.log import Log
from tests.scripted_provider import ScriptedProvider


async def move_head(store: Store, conversation_id: str, item_id: str) -> None:
    answer = await store.post(f"{conversation_id}/head", item=item_id)
    assert answer.status_code == 200, answer.text


async def fork(store: Store, conversation_id: str, **body: Any) -> str:
    answer = await store.post(f"{conversation_id}/fork", **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_an_inherited_summary_is_not_sent_while_the_first_covered_item_is_the_head(
    store: Store, provider: ScriptedProvider
) -> None:
    origin = await create_conversation(store.api)
    ids = await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of tea.")
    [covered, *_] = ids
    forked = await fork(store, origin)
    assert "Of tea." in await shown_to_model(store, forked)
    await move_head(store, forked, covered)
    request = await shown_to_model(store, forked)
    assert ("Of tea." in request, "user 0 " in request) == (False, True)
    assert "Of tea." not in await shown_to_model(store, await fork(store, forked))
    await move_head(store, forked, ids[-1])
    assert "Of tea." in await shown_to_model(store, forked)


async def test_a_summary_is_left_out_when_a_covered_answer_is_regenerated(
    store: Store, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    response = await create_response(store.api, "zero", conversation=conversation_id)
    await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea.")
    provider.requests.clear()
    answer = await store.api.post("/v1/responses", json={"regenerate": response["id"]})
    assert answer.status_code == 200, answer.text
    assert ("Of tea." in str(provider.requests[-1]), "zero" in str(provider.requests[-1])) == (False, True)


async def test_a_fork_inherits_the_last_summary_before_the_fork_point(store: Store, provider: ScriptedProvider) -> None:
    origin = await create_conversation(store.api)
    await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of tea.")
    ids = await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of tea and cake.")
    request = await shown_to_model(store, await fork(store, origin, item=ids[0]))
    assert ("Of tea." in request, "Of tea and cake." in request) == (True, False)


async def branches_with_summaries(
    store: Store, provider: ScriptedProvider, conversation_id: str
) -> tuple[list[str], list[str]]:
    """Returns the ids of the items of two paths. The first path is active.

    Both paths begin with the items that "Of tea." covers.
    The first path also has the summary "Of cake.", the second path "Of bread.".
    """
    shared = await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea.")
    first = shared + await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of cake.")
    await move_head(store, conversation_id, shared[-1])
    second = shared + await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of bread.")
    await move_head(store, conversation_id, first[-1])
    return first, second


async def test_undo_and_redo_change_the_summaries_of_the_active_path(store: Store, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(store.api)
    first, second = await branches_with_summaries(store, provider, conversation_id)
    await undo(store, conversation_id)
    assert "Of tea." in await shown_to_model(store, conversation_id)
    await move_head(store, conversation_id, second[-1])
    assert await refuses(store, conversation_id, "redo")
    assert "Of bread." in await shown_to_model(store, conversation_id)
    await move_head(store, conversation_id, first[-1])
    await redo(store, conversation_id)
    assert "Of cake." in await shown_to_model(store, conversation_id)


async def test_a_summary_undone_on_another_path_does_not_return_by_itself(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    first, second = await branches_with_summaries(store, provider, conversation_id)
    for _ in range(2):
        await undo(store, conversation_id)
    await move_head(store, conversation_id, second[-1])
    assert await refuses(store, conversation_id, "redo"), "a redo of the older summary would change nothing"
    assert "Of bread." in await shown_to_model(store, conversation_id)
    [*_, last] = compactions(log, conversation_id)
    await retract(store, conversation_id, second[last.count - 1])
    assert "Of " not in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "undo")
    await move_head(store, conversation_id, first[-1])
    assert "Of " not in await shown_to_model(store, conversation_id)
    await redo(store, conversation_id)
    assert "Of tea." in await shown_to_model(store, conversation_id)
    assert await refuses(store, conversation_id, "redo"), "the item withdrew the other summary too"


async def test_compact_and_undo_work_after_many_summaries_on_another_path(
    store: Store, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of tea.")
    for number in range(PAGE_CHANGES + 1):
        await store.append(conversation_id, *talk(40))
        await compact(store, provider, conversation_id, f"Of cake {number}.")
    await move_head(store, conversation_id, ids[-1])
    assert "Of tea." in await shown_to_model(store, conversation_id)
    await store.append(conversation_id, *talk(40))
    await compact(store, provider, conversation_id, "Of bread.")
    for expected in ("Of tea.", ""):
        await undo(store, conversation_id)
        shown = await shown_to_model(store, conversation_id)
        assert ("Of tea." in shown, "Of " in shown) == (bool(expected), bool(expected))


async def test_a_fork_has_the_summary_of_the_version_at_which_it_was_forked(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    origin = await create_conversation(store.api)
    await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of tea.")
    ids = await store.append(origin, *talk(40))
    await compact(store, provider, origin, "Of cake.")
    version = len(log.versions(origin))
    before = await fork(store, origin)
    for _ in range(2):
        await undo(store, origin)
    undone = len(log.versions(origin))
    await redo(store, origin)
    assert "Of cake." in await shown_to_model(store, before)
    assert "Of cake." in await shown_to_model(store, await fork(store, origin, version=version))
    assert "Of " not in await shown_to_model(store, await fork(store, origin, version=undone))
    assert "Of tea." in await shown_to_model(store, await fork(store, origin))
    await retract(store, before, ids[0])
    assert "Of tea." in await shown_to_model(store, before)
    assert "Of tea." in await shown_to_model(store, await fork(store, before))
    assert await refuses(store, before, "undo"), "a fork cannot undo a summary that it inherits"
