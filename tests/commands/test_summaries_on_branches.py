"""A summary is sent only on paths that contain the last item of the summary."""

from typing import Any

from tests.commands.api_client import create_conversation, create_response
from tests.commands.summarizing_store import Store, talk
from tests.commands.test_withdrawn_summaries import compact, shown_to_model
from tests.scripted_provider import ScriptedProvider


async def move_head(store: Store, conversation_id: str, item_id: str) -> None:
    answer = await store.post(f"{conversation_id}/head", item=item_id)
    assert answer.status_code == 200, answer.text


async def fork(store: Store, conversation_id: str, **body: Any) -> str:
    answer = await store.post(f"{conversation_id}/fork", **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_an_inherited_summary_is_not_sent_while_the_head_is_a_covered_item(
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
