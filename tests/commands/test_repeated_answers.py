"""A repeated request gets the first answer again, without content that was deleted meanwhile."""

import httpx
import psycopg

from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, error_of, message
from tests.commands.summarizing_store import Store, talk
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

KEY = {"Idempotency-Key": "k"}
WITH_PROVIDER = {"model_window": 100_000}


async def test_a_repeated_creation_of_a_deleted_conversation_is_a_404(api: httpx.AsyncClient, log: Log) -> None:
    body = {"title": "secret", "instructions": "secret", "metadata": {"k": "secret"}}
    created = await api.post("/v1/conversations", json=body, headers=KEY)
    assert (await api.delete(f"/v1/conversations/{created.json()['id']}")).status_code == 200
    repeated = await api.post("/v1/conversations", json=body, headers=KEY)
    assert error_of(repeated)[:2] == (404, "not_found")
    assert "secret" not in repeated.text
    assert log.rows("SELECT answer FROM idempotency_keys") == [(b"",)], (
        "the deletion of the conversation did not empty the kept answer"
    )
    other = await api.post("/v1/conversations", json={}, headers=KEY)
    assert other.status_code == 422, "the key stays used"


async def test_a_repeat_whose_kept_answer_was_emptied_is_a_404(api: httpx.AsyncClient, settings: Settings) -> None:
    path = f"/v1/conversations/{await create_conversation(api)}"
    body = {"items": [message("kept")]}
    assert (await api.post(f"{path}/items", json=body, headers=KEY)).status_code == 200
    reply = {"input": "one", "conversation": path.rpartition("/")[2]}
    other_key = {"Idempotency-Key": "reply"}
    assert (await api.post("/v1/responses", json=reply, headers=other_key)).status_code == 200
    assert (await api.delete(path)).status_code == 200
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM events WHERE topic = 'conversation.deleted'")
    assert (await api.post(f"{path}/items", json={"items": [message("new")]})).status_code == 200
    for answer in (
        await api.post(f"{path}/items", json=body, headers=KEY),
        await api.post("/v1/responses", json=reply, headers=other_key),
    ):
        assert error_of(answer)[:2] == (404, "not_found")


async def test_the_deletion_of_a_conversation_can_be_repeated_with_its_key(api: httpx.AsyncClient) -> None:
    path = f"/v1/conversations/{await create_conversation(api)}"
    first, second = [await api.delete(path, headers=KEY) for _ in range(2)]
    assert (first.status_code, second.json()) == (200, first.json())


async def test_the_deletion_of_a_response_can_be_repeated_with_its_key(api: httpx.AsyncClient) -> None:
    response = await create_response(api, "one")
    path, key = f"/v1/responses/{response['id']}", {"Idempotency-Key": "delete-1"}
    first, second = [await api.delete(path, headers=key) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"


async def test_a_repeated_append_shows_retracted_items_without_content(api: httpx.AsyncClient) -> None:
    path = f"/v1/conversations/{await create_conversation(api)}/items"
    call = {"type": "function_call", "call_id": "c", "name": "secret", "arguments": '{"secret": 1}'}
    body = {"items": [message("secret"), call, message("kept")]}
    first = (await api.post(path, json=body, headers=KEY)).json()["data"]
    for item in first[:2]:
        await api.delete(f"{path}/{item['id']}")
    repeated = await api.post(path, json=body, headers=KEY)
    assert repeated.headers["idempotent-replayed"] == "true"
    assert "secret" not in repeated.text
    assert repeated.json()["data"] == [
        {"id": first[0]["id"], "type": "message", "role": "user", "status": "completed", "content": []},
        {"id": first[1]["id"], "type": "function_call"},
        first[2],
    ]


async def test_a_repeated_request_for_a_deleted_reply_is_a_404(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    for body in ({"input": "secret"}, {"input": "secret", "conversation": conversation_id}):
        for stream in (False, True):
            key = {"Idempotency-Key": f"{len(body)} {stream}"}
            full_body = {**body, "stream": stream}
            first, repeated = [await api.post("/v1/responses", json=full_body, headers=key) for _ in range(2)]
            assert repeated.headers["idempotent-replayed"] == "true"
            requests = len(provider.requests)
            response_id = first.text.split('"id":"resp_', 1)[1][:32]
            assert (await api.delete(f"/v1/responses/resp_{response_id}")).status_code == 200
            second_repeat = await api.post("/v1/responses", json=full_body, headers=key)
            assert second_repeat.status_code == 404, second_repeat.text
            assert len(provider.requests) == requests


async def test_a_repeated_compaction_shows_no_withdrawn_summary(store: Store, provider: ScriptedProvider) -> None:
    provider.script = lambda exchange: exchange.stream_text("secret")
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    path = f"/v1/conversations/{conversation_id}/compact"
    first = await store.api.post(path, headers=KEY)
    assert first.json()["summary"] == "secret"
    await store.append(conversation_id, *talk(40))
    newer = await store.api.post(path, headers={"Idempotency-Key": "newer"})
    assert newer.json()["id"] != first.json()["id"]
    assert (await store.api.post(path, headers=KEY)).json() == first.json()
    provider.requests.clear()
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{ids[0]}")
    repeated = await store.api.post(path, headers=KEY)
    assert repeated.json() == {**first.json(), "summary": ""}
    await store.api.delete(f"/v1/conversations/{conversation_id}")
    assert (await store.api.post(path, headers=KEY)).status_code == 404
    assert provider.requests == []
