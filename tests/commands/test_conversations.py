"""Commands on a conversation and its items: their answers, and the events that they append."""

import asyncio

import httpx

from domain.events import ConversationEnded, ItemAppended
from tests.commands.api_client import create_conversation, message
from tests.log import Log


async def test_creating_a_conversation_answers_with_its_id_version_and_position(
    api: httpx.AsyncClient, log: Log
) -> None:
    answer = await api.post("/v1/conversations", json={"metadata": {"topic": "demo"}, "items": [message("hello")]})
    body = answer.json()
    assert answer.status_code == 200
    assert body["object"] == "conversation"
    assert body["metadata"] == {"topic": "demo"}
    assert answer.headers["etag"] == '"2"'
    assert int(answer.headers["x-position"]) == log.rows("SELECT max(notification_id) FROM events")[0][0]
    assert answer.headers["x-request-id"].startswith("req_")
    assert log.topics(body["id"]) == ["conversation.started", "item.appended"]


async def test_items_are_stored_as_sent_and_get_new_ids(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    sent: list[dict[str, object]] = [
        {"id": "mine", "role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "something_new", "depth": 10**30, "nested": {"a": [1.0, None]}},
    ]
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": sent})
    data = answer.json()["data"]
    assert [item["type"] for item in data] == ["message", "function_call", "something_new"]
    assert data[0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert data[0]["id"].startswith("msg_")
    assert data[1]["id"].startswith("fc_")
    assert {**sent[2], "id": data[2]["id"]} == data[2]
    appended = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert appended[0].item == b'{"id":"mine","role":"user","content":"hi"}'
    assert [event.depth for event in appended] == [1, 2, 3]
    assert [event.parent_id for event in appended] == [None, data[0]["id"], data[1]["id"]]


async def test_fifty_concurrent_appends_get_versions_without_gaps(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    answers = await asyncio.gather(
        *(
            api.post(f"/v1/conversations/{conversation_id}/items", json={"items": [message(f"message {n}")]})
            for n in range(50)
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    assert log.versions(conversation_id) == list(range(1, 52))
    positions = sorted(int(answer.headers["x-position"]) for answer in answers)
    assert len(set(positions)) == 50


async def test_an_append_with_an_old_version_is_a_412_with_the_current_version(
    api: httpx.AsyncClient, log: Log
) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    first = await api.post(path, json={"items": [message("a")]}, headers={"If-Match": '"1"'})
    second = await api.post(path, json={"items": [message("b")]}, headers={"If-Match": '"1"'})
    assert first.status_code == 200
    assert second.status_code == 412
    assert second.headers["etag"] == '"2"'
    assert second.json()["error"]["code"] == "version_mismatch"
    assert log.count() == 2


async def test_a_repeat_with_the_same_key_appends_nothing(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    calls = [api.post(path, json={"items": [message("once")]}, headers={"Idempotency-Key": "k"}) for _ in range(8)]
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert log.count() == 2
    different = await api.post(path, json={"items": [message("twice")]}, headers={"Idempotency-Key": "k"})
    assert different.status_code == 422
    assert different.json()["error"]["code"] == "idempotency_key_reused"


async def test_an_ended_conversation_refuses_items_until_it_is_reopened(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}"
    ended = await api.post(f"{path}/end", json={"reason": "done"})
    assert ended.json()["status"] == "ended"
    refused = await api.post(f"{path}/items", json={"items": [message("late")]})
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    assert (await api.post(f"{path}/end")).headers["etag"] == ended.headers["etag"]
    assert (await api.post(f"{path}/reopen")).json()["status"] == "active"
    assert (await api.post(f"{path}/items", json={"items": [message("again")]})).status_code == 200
    assert ConversationEnded(reason="done") in log.events(conversation_id)


async def test_commands_on_a_deleted_conversation_are_a_404_and_append_nothing(
    api: httpx.AsyncClient, log: Log
) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}"
    assert (await api.delete(path)).json() == {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    events = log.count()
    for answer in (
        await api.delete(path),
        await api.post(path, json={"metadata": {}}),
        await api.post(f"{path}/items", json={"items": [message("x")]}),
        await api.post(f"{path}/end"),
        await api.post(f"{path}/reopen"),
    ):
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert log.count() == events


async def test_only_one_of_several_concurrent_deletions_of_an_item_succeeds(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    added = await api.post(path, json={"items": [message("a"), message("b")]})
    item_id = added.json()["data"][0]["id"]
    answers = await asyncio.gather(*(api.delete(f"{path}/{item_id}") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]
    assert log.topics(conversation_id).count("item.retracted") == 1


async def test_an_update_keeps_absent_fields_and_clears_fields_that_are_null(api: httpx.AsyncClient) -> None:
    conversation_id = await create_conversation(api, title="First", metadata={"a": "1"}, instructions="Be kind.")
    path = f"/v1/conversations/{conversation_id}"
    body = (await api.post(path, json={"metadata": {"b": "2"}, "title": None})).json()
    assert (body["metadata"], body["title"], body["instructions"]) == ({"b": "2"}, None, "Be kind.")
    repeat = await api.post(path, json={"metadata": {"b": "2"}})
    assert repeat.headers["etag"] == '"2"'
