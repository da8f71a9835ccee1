"""The messages of a stored chat completion, through both APIs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from infrastructure.settings import Settings
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import ScriptedProvider, scripted_provider

Json = dict[str, Any]
SYSTEM: Json = {"role": "system", "content": "Be brief."}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def apis(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[BothApis]:
    """The projector runs all the time."""
    changed = {"openai_base_url": provider.url, "default_model": "scripted", "model_window": 100_000}
    stop = asyncio.Event()
    async with open_both_apis(settings.model_copy(update=changed)) as opened:
        projecting = asyncio.create_task(opened.projector.run(stop))
        yield opened
        stop.set()
        await projecting


async def complete(apis: BothApis, messages: list[Json], **fields: Any) -> tuple[str, str, Json]:
    """Returns the completion's id, the conversation's id, and the answer as a message."""
    answer = await apis.http.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    completion = answer.json()
    return completion["id"], answer.headers["x-conversation-id"], completion["choices"][0]["message"]


async def messages_of(apis: BothApis, completion_id: str, **query: Any) -> list[Json]:
    pages = await apis.sdk.chat.completions.messages.list(completion_id, **query)
    return [message.to_dict(mode="json") async for message in pages]


async def test_the_listed_messages_are_the_sent_ones_with_ids_and_parts(apis: BothApis) -> None:
    parts = [{"type": "text", "text": "What is "}, IMAGE, {"type": "text", "text": "this?"}]
    _, first_conversation, answer = await complete(apis, [SYSTEM, {"role": "user", "content": "hi"}])
    sent = [
        {"role": "developer", "content": "Today is Tuesday."},
        {"role": "user", "content": "hi", "name": "ann"},
        answer,
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "a cat"}]},
    ]
    completion_id, conversation_id, _ = await complete(apis, sent)
    assert conversation_id == first_conversation

    listed = await messages_of(apis, completion_id)
    assert [message["id"] for message in listed] == [f"{completion_id}-{number}" for number in range(6)]
    assert [message["content"] for message in listed] == [
        *("Today is Tuesday.", "hi", answer["content"], "What is this?", None, "a cat")
    ]
    file_id = listed[3]["content_parts"][1]["image_url"].pop("url")
    assert file_id.startswith("file-")
    listed[3]["content_parts"][1]["image_url"]["url"] = IMAGE["image_url"]["url"]
    assert [message["content_parts"] for message in listed] == [None, None, None, parts, None, sent[5]["content"]]
    listed[3]["content_parts"][1]["image_url"]["url"] = file_id
    for message, original in zip(listed, sent, strict=True):
        as_sent = {**message, "content": original.get("content")}
        assert {name: as_sent[name] for name in original} == original
    assert await messages_of(apis, completion_id, limit=2) == listed
    assert await messages_of(apis, completion_id, limit=4, order="desc") == listed[::-1]
    assert await messages_of(apis, completion_id, after=f"{completion_id}-3") == listed[4:]


async def test_deleted_messages_are_left_out_and_the_others_keep_their_ids(apis: BothApis) -> None:
    messages: list[Json] = [SYSTEM]
    for text in ("one", "two", "three"):
        messages.append({"role": "user", "content": text})
        completion_id, conversation_id, answer = await complete(apis, messages)
        messages.append({**answer, "content": f"{answer['content']} and a change"} if text == "one" else answer)
    items = (await apis.http.get(f"/v1/conversations/{conversation_id}/items?order=asc")).json()["data"]
    for item in items[1:3]:  # the first answer and the second question
        await apis.http.delete(f"/v1/conversations/{conversation_id}/items/{item['id']}")
    listed = await messages_of(apis, completion_id)
    assert [message["id"][-2:] for message in listed] == ["-0", "-1", "-4", "-5"]
    assert [message["content"] for message in listed] == [messages[number]["content"] for number in (0, 1, 4, 5)]
    # The id of a deleted message is still a cursor.
    assert await messages_of(apis, completion_id, after=f"{completion_id}-3") == listed[2:]


async def test_a_request_with_a_conversation_has_only_its_new_messages(apis: BothApis) -> None:
    conversation = (await apis.http.post("/v1/conversations", json={})).json()["id"]
    await complete(apis, [{"role": "user", "content": "one"}], conversation=conversation)
    news = [{"role": "user", "content": "two"}, {"role": "user", "content": "three"}]
    completion_id, same, _ = await complete(apis, news, conversation=conversation)
    assert same == conversation
    listed = await messages_of(apis, completion_id)
    assert [(message["role"], message["content"]) for message in listed] == [("user", "two"), ("user", "three")]
    items = (await apis.http.get(f"/v1/conversations/{conversation}/items?order=asc")).json()["data"]
    await apis.http.delete(f"/v1/conversations/{conversation}/items/{items[2]['id']}")
    assert await messages_of(apis, completion_id) == listed[1:]


async def test_bad_cursors_are_refused(apis: BothApis) -> None:
    completion_id, _, _ = await complete(apis, [{"role": "user", "content": "hi"}])
    path = f"/v1/chat/completions/{completion_id}/messages"
    for cursor in (completion_id, f"{completion_id}-1", "chatcmpl-1-0", ""):
        refused = await apis.http.get(path, params={"after": cursor})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after"), cursor
    refused = await apis.http.get(path, params={"after": completion_id})
    assert "Send an `id` from this list" in refused.json()["error"]["message"]
    response = (await apis.http.post("/v1/responses", json={"input": "hi"})).json()
    assert (await apis.http.get(f"/v1/chat/completions/{response['id']}/messages")).status_code == 404
    assert (await apis.sdk.chat.completions.delete(completion_id)).deleted
    assert (await apis.http.get(path)).status_code == 404


async def test_a_chat_completion_is_read_counted_and_deleted_as_a_response_too(apis: BothApis) -> None:
    completion_id, conversation_id, answer = await complete(
        apis, [SYSTEM, {"role": "user", "content": "hi"}], metadata={"a": "1"}, seed=7
    )
    response = await apis.sdk.responses.retrieve(completion_id)
    assert (response.output_text, response.metadata) == (answer["content"], {"a": "1"})
    assert response.conversation is not None
    assert response.conversation.id == conversation_id
    await apis.sdk.chat.completions.update(completion_id, metadata={"a": "2"})
    assert [found.id async for found in await apis.sdk.chat.completions.list(metadata={"a": "2"})] == [completion_id]
    assert (await apis.sdk.responses.retrieve(response.id)).metadata == {"a": "2"}
    [question] = [item async for item in await apis.sdk.responses.input_items.list(response.id)]
    assert question.type == "message"
    streamed = [event async for event in await apis.sdk.responses.retrieve(response.id, stream=True)]
    assert streamed[-1].type == "response.completed"
    usage = (await apis.http.get("/v1/usage")).json()["data"]
    assert [row["replies"] for row in usage] == [1]
    await apis.sdk.responses.delete(response.id)
    assert (await apis.http.get(f"/v1/chat/completions/{completion_id}")).status_code == 404
