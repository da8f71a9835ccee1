"""POST /v1/conversations/{id}/compact, `/compact/undo` and `/compact/redo`."""

from infrastructure.ids import mint
from tests.commands.api_client import create_conversation
from tests.commands.summarizing_store import MODEL, Store, compactions, talk
from tests.commands.test_withdrawn_summaries import compact, shown_to_model
from tests.log import Log
from tests.scripted_provider import ScriptedProvider


async def test_compact_undo_and_redo_change_the_context(store: Store, log: Log) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    answer = await store.post(f"{conversation_id}/compact", instructions="Mind the tea.")
    body = answer.json()
    assert answer.status_code == 200, answer.text
    [compacted] = compactions(log, conversation_id)
    assert body == {
        "object": "conversation.compaction",
        "id": compacted.compaction_id,
        "summary": compacted.summary,
        "from": ids[0],
        "to": compacted.last,
        "count": compacted.count,
        "tokens_before": compacted.tokens_before,
        "tokens_after": compacted.tokens_after,
        "model": MODEL,
    }
    assert (await store.assemble(conversation_id))[1].shown.summary == compacted.compaction_id
    undone = await store.post(f"{conversation_id}/compact/undo")
    assert (undone.status_code, undone.json()["object"]) == (200, "conversation")
    assert (await store.assemble(conversation_id))[1].shown.summary is None
    assert (await store.post(f"{conversation_id}/compact/undo")).json()["error"]["code"] == "nothing_to_undo"
    assert (await store.post(f"{conversation_id}/compact/redo")).status_code == 200
    assert (await store.assemble(conversation_id))[1].shown.summary == compacted.compaction_id
    assert (await store.post(f"{conversation_id}/compact/redo")).json()["error"]["code"] == "nothing_to_undo"


async def test_a_repeat_with_an_idempotency_key_does_not_call_the_model(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    await store.append(conversation_id, *talk(40))
    path, headers = f"/v1/conversations/{conversation_id}/compact", {"idempotency-key": "k"}
    first = await store.api.post(path, headers=headers)
    calls = len(provider.requests)
    repeat = await store.api.post(path, headers=headers)
    assert repeat.json() == first.json()
    assert repeat.headers["idempotent-replayed"] == "true"
    assert repeat.headers["etag"] == first.headers["etag"]
    assert len(provider.requests) == calls


async def test_a_conversation_that_fits_has_nothing_to_compact(store: Store) -> None:
    conversation_id = await create_conversation(store.api, items=talk(1))
    answer = await store.post(f"{conversation_id}/compact")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_compact")
    unknown = await store.post(f"{mint('conv')}/compact")
    assert unknown.status_code == 404


async def test_a_repeated_undo_gets_the_first_answer(store: Store, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(store.api)
    for summary in ("Of tea.", "Of cake."):
        await store.append(conversation_id, *talk(40))
        await compact(store, provider, conversation_id, summary)
    path, headers = f"/v1/conversations/{conversation_id}/compact/undo", {"idempotency-key": "k"}
    first, repeat = [await store.api.post(path, headers=headers) for _ in range(2)]
    assert (first.status_code, repeat.status_code, repeat.json()) == (200, 200, first.json())
    assert "Of tea." in await shown_to_model(store, conversation_id)
