"""Changes the metadata of stored chat completions, and deletes chat completions."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted

from domain.commands import DescribeReply
from domain.events import ConversationDeleted, ReplyDeleted, ReplyDescribed
from infrastructure.event_log.log import EventLog
from infrastructure.ids import completion_id, mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, error_of, sent_messages
from tests.log import Log
from tests.queries.writer import Writer
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000}


@pytest.fixture
async def write(settings: Settings) -> AsyncIterator[Writer]:
    events_log = EventLog(settings.postgres_url, Metrics())
    events_log.open()
    yield Writer(events_log)
    await events_log.close()


def path_of(response_id: str) -> str:
    return f"/v1/chat/completions/{completion_id(response_id)}"


async def update(api: httpx.AsyncClient, response_id: str, metadata: Any, **headers: str) -> httpx.Response:
    return await api.post(path_of(response_id), json={"metadata": metadata}, headers=headers)


async def test_a_change_of_metadata_answers_with_the_changed_chat_completion(
    api: httpx.AsyncClient, write: Writer, log: Log
) -> None:
    conversation_id = await write.start(listed=False)
    response_id = await write.complete_chat(conversation_id, "hi", "hello", metadata={"a": "1", "b": "2"})
    for metadata, expected in (({"a": "2"}, {"a": "2"}), ({}, {}), ({"$c.d": ""}, {"$c.d": ""}), (None, {})):
        answer = await update(api, response_id, metadata)
        assert answer.status_code == 200, answer.text
        completion = ChatCompletion.model_validate_json(answer.content)
        assert (completion.id, completion.metadata) == (completion_id(response_id), expected)
        assert completion.choices[0].message.content == "hello"
        events = log.events(conversation_id)
        assert events[-1] == ReplyDescribed(response_id=response_id, metadata=expected)
        assert answer.headers["etag"] == f'"{len(events)}"'
        assert int(answer.headers["x-position"]) > 0
    running, _ = await write.request_reply(conversation_id, "still there?", transcript=None)
    assert error_of(await update(api, running, {}))[0] == 404


async def test_a_change_of_metadata_obeys_if_match_and_the_idempotency_key(
    api: httpx.AsyncClient, write: Writer, log: Log
) -> None:
    conversation_id = await write.start(listed=False)
    response_id = await write.complete_chat(conversation_id, "hi", "hello")
    first = await update(api, response_id, {"a": "1"}, **{"Idempotency-Key": "k"})
    second = await update(api, response_id, {"a": "1"}, **{"Idempotency-Key": "k"})
    assert (second.status_code, second.content, second.headers["idempotent-replayed"]) == (200, first.content, "true")
    assert second.headers["x-position"] == first.headers["x-position"]
    assert error_of(await update(api, response_id, {"a": "2"}, **{"Idempotency-Key": "k"}))[0] == 422
    assert log.rows("SELECT answer FROM idempotency_keys") == [(b"{}",)]
    assert error_of(await update(api, response_id, {"a": "2"}, **{"If-Match": '"1"'}))[0] == 412
    assert [event for event in log.events(conversation_id) if isinstance(event, ReplyDescribed)] == [
        ReplyDescribed(response_id=response_id, metadata={"a": "1"})
    ]
    await api.delete(path_of(response_id))
    repeated = await update(api, response_id, {"a": "1"}, **{"Idempotency-Key": "k"})
    message = f"There is no chat completion {completion_id(response_id)}."
    assert (repeated.status_code, repeated.json()["error"]["message"]) == (404, message)


async def test_the_error_for_invalid_metadata_names_the_field(api: httpx.AsyncClient, write: Writer) -> None:
    response_id = await write.complete_chat(await write.start(), "hi", "hello")
    bodies: list[tuple[dict[str, Any], str]] = [
        ({}, "metadata"),
        ({"metadata": "a"}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"": "a"}}, "metadata"),
        ({"metadata": {"k" * 65: "a"}}, "metadata"),
        ({"metadata": {"k": "a" * 513}}, "metadata"),
        ({"metadata": {f"{number}": "" for number in range(17)}}, "metadata"),
        ({"metadata": {}, "model": "m"}, "model"),
    ]
    for body, param in bodies:
        refused = await api.post(path_of(response_id), json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), body


async def test_a_deleted_chat_completion_and_its_response_are_a_404(
    api: httpx.AsyncClient, write: Writer, log: Log
) -> None:
    conversation_id, listed = await write.start(listed=False), await write.start("before")
    in_unlisted = await write.complete_chat(conversation_id, "hi", "hello")
    in_listed = await write.complete_chat(listed, "hi", "hello")
    for response_id in (in_unlisted, in_listed):
        headers = {"Idempotency-Key": f"delete {response_id}"}
        for is_replayed in (None, "true"):
            answer = await api.delete(path_of(response_id), headers=headers)
            receipt = ChatCompletionDeleted.model_validate_json(answer.content)
            assert (answer.status_code, receipt.id, receipt.deleted) == (200, completion_id(response_id), True)
            assert answer.headers.get("idempotent-replayed") == is_replayed
        for repeated in (await api.delete(path_of(response_id)), await update(api, response_id, {})):
            message = f"There is no chat completion {completion_id(response_id)}."
            assert (repeated.status_code, repeated.json()["error"]["message"]) == (404, message)
        assert (await api.delete(f"/v1/responses/{response_id}")).status_code == 404
    assert isinstance(log.events(conversation_id)[-1], ConversationDeleted)
    assert isinstance(log.events(listed)[-1], ReplyDeleted)


async def test_a_response_is_a_404_at_the_path_of_chat_completions(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start()
    plain, question = await write.request_reply(conversation_id, "hi")
    await write.complete_reply(conversation_id, plain, question, "a Response")
    for response_id in (plain, mint("resp")):
        for answer in (await api.delete(path_of(response_id)), await update(api, response_id, {"a": "b"})):
            assert answer.status_code == 404


async def test_a_response_and_a_chat_completion_are_deleted_by_either_id(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start()
    plain, question = await write.request_reply(conversation_id, "hi")
    await write.complete_reply(conversation_id, plain, question, "a Response")
    assert (await api.delete(f"/v1/responses/{completion_id(plain)}")).status_code == 200
    chat = await write.complete_chat(conversation_id, "hi", "hello")
    assert (await api.delete(f"/v1/chat/completions/{chat}")).json()["id"] == completion_id(chat)
    malformed = await api.delete("/v1/chat/completions/chatcmpl-1")
    assert (malformed.status_code, malformed.json()["error"]["param"]) == (400, "completion_id")


async def test_a_reply_continues_from_the_same_place_after_a_change_of_metadata(
    api: httpx.AsyncClient, write: Writer, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    response = await create_response(api, "one", conversation=conversation_id)
    await write.append(conversation_id, "two")
    await write.execute(conversation_id, DescribeReply(response_id=response["id"], metadata={"a": "b"}))
    await create_response(api, "three", previous_response_id=response["id"])
    questions = [content for role, content in sent_messages(provider.requests[-1]) if role == "user"]
    assert questions == ["one", "three"]
