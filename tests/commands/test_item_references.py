"""References are input items that only name another item."""

from typing import Any

import httpx
import psycopg
import pytest

from domain.events import ItemAppended, ReplyRequested
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from tests.commands.api_client import (
    create_conversation,
    create_response,
    error_of,
    events_of,
    message,
    output_text,
    post_response,
    sent_messages,
)
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000}


def reference(item_id: str) -> dict[str, str]:
    return {"type": "item_reference", "id": item_id}


async def add(api: httpx.AsyncClient, conversation_id: str, *items: dict[str, Any]) -> list[str]:
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


def texts(provider: ScriptedProvider) -> list[str]:
    return [content for _, content in sent_messages(provider.requests[-1])]


def appended(log: Log, conversation_id: str) -> list[ItemAppended]:
    return [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]


async def test_a_referenced_item_is_stored_in_a_new_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    answer_id = first["output"][0]["id"]
    question = (await api.post("/v1/responses/input_tokens", json={"input": "else"})).json()["input_tokens"]
    request = [message("else"), reference(answer_id), message("two")]
    counted = await api.post("/v1/responses/input_tokens", json={"input": request})
    assert counted.json()["input_tokens"] > question
    second = await create_response(api, request)
    assert texts(provider) == ["else", "Hello, world!", "two"]
    assert [role for role, _ in sent_messages(provider.requests[-1])] == ["user", "assistant", "user"]
    stored = appended(log, second["conversation"]["id"])
    assert len(stored) == 4
    assert answer_id not in {event.item_id for event in stored}
    # An item with only an `id` is a reference.
    third = [message("else"), {"id": answer_id}, message("two"), reference(second["output"][0]["id"]), message("three")]
    went_on = await create_response(api, third)
    assert went_on["conversation"] == second["conversation"]
    assert texts(provider) == ["else", "Hello, world!", "two", "Hello, world!", "three"]
    # A reference does not wait for a view.
    [item_id] = await add(api, await create_conversation(api), message("just now"))
    before = log.count()
    alone = await create_response(api, [reference(item_id), reference(item_id)], store=False)
    assert output_text(alone) == "Hello, world!"
    assert texts(provider) == ["just now"]
    assert log.count() == before


@pytest.mark.parametrize("way", ["conversation", "previous_response_id"])
async def test_a_reference_adds_only_what_the_path_lacks(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, way: str
) -> None:
    [elsewhere] = await add(api, await create_conversation(api), message("elsewhere"))
    conversation_id = await create_conversation(api)
    first = await create_response(api, "one", **({"conversation": conversation_id} if way == "conversation" else {}))
    conversation_id = first["conversation"]["id"]
    answer_id = first["output"][0]["id"]

    def continued(response: dict[str, Any]) -> dict[str, Any]:
        return {way: conversation_id if way == "conversation" else response["id"]}

    second = await create_response(api, [reference(answer_id), message("two")], **continued(first))
    assert texts(provider) == ["one", "Hello, world!", "two"]
    assert len(appended(log, conversation_id)) == 4
    third = await create_response(
        api, [reference(elsewhere), reference(answer_id), message("three")], **continued(second)
    )
    assert texts(provider)[4:] == ["elsewhere", "three"]
    changed = {**second["output"][0], "content": [{"type": "output_text", "text": "changed", "annotations": []}]}
    await create_response(api, [reference(elsewhere), changed, message("four")], **continued(third))
    assert texts(provider)[4:] == ["elsewhere", "three", "Hello, world!", "four"]
    events = log.events(conversation_id)
    requested = [event for event in events if isinstance(event, ReplyRequested)]
    assert [len(request.input) for request in requested] == [1, 1, 2, 1]
    assert len(appended(log, conversation_id)) == 9


async def test_on_a_new_branch_a_reference_adds_only_what_the_branch_lacks(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    second = await create_response(api, "two", previous_response_id=first["id"])
    answers = [reference(response["output"][0]["id"]) for response in (first, second)]
    beside = await create_response(api, [*answers, message("other")], previous_response_id=first["id"])
    assert texts(provider) == ["one", "Hello, world!", "Hello, world!", "other"]
    await create_response(api, [*answers, message("more")], previous_response_id=beside["id"])
    assert texts(provider) == ["one", "Hello, world!", "Hello, world!", "other", "Hello, world!", "more"]
    assert len(appended(log, first["conversation"]["id"])) == 4 + 5


async def test_a_reference_to_a_missing_or_unreadable_item_is_a_404(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, settings: Settings
) -> None:
    kept, deleted, foreign = [await create_conversation(api) for _ in range(3)]
    [retracted], [in_deleted], [of_another_tenant] = [
        await add(api, conversation_id, message("secret")) for conversation_id in (kept, deleted, foreign)
    ]
    reply = await create_response(api, "one", conversation=kept)
    await api.delete(f"/v1/conversations/{kept}/items/{retracted}")
    await api.delete(f"/v1/conversations/{deleted}")
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("UPDATE events SET tenant_id = 'other' WHERE originator_id = %s", [uuid_of(foreign)])
    before, requests = log.count(), len(provider.requests)
    for item_id in (
        retracted,
        of_another_tenant,
        in_deleted,
        mint("msg"),
        reply["id"],
        "msg_unknown",
        "pins",
        "x" * 300,
    ):
        for way in ({}, {"conversation": kept}, {"previous_response_id": reply["id"]}, {"store": False}):
            refused = await post_response(api, [message("one"), reference(item_id)], **way)
            assert error_of(refused) == (404, "item_not_found", "input[1].id"), (item_id, way, refused.text)
            assert item_id[:64] in refused.json()["error"]["message"]
            assert "secret" not in refused.text
    for malformed in ({"type": "item_reference"}, {"type": "item_reference", "id": 7}, {"id": ""}, {"id": None}):
        refused = await post_response(api, [malformed])
        assert error_of(refused) == (400, "invalid_value", "input[0].id"), refused.text
    for path in (f"/v1/conversations/{kept}/items", "/v1/conversations"):
        refused = await api.post(path, json={"items": [reference(reply["output"][0]["id"])]})
        assert error_of(refused) == (400, "invalid_value", "items[0].type")
    assert log.count() == before
    assert len(provider.requests) == requests


async def test_a_referenced_item_alone_is_refused_if_already_on_the_path(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    item_id, call_id = await add(api, conversation_id, message("one"), call)
    await create_response(api, [reference(item_id)])
    assert texts(provider) == ["one"]
    before = log.count()
    on_path = await post_response(api, [reference(item_id)], conversation=conversation_id)
    assert error_of(on_path) == (400, "input_already_in_conversation", "input")
    without_output = await post_response(api, [reference(call_id)])
    assert error_of(without_output) == (400, "invalid_value", "input")
    assert log.count() == before
    output = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
    await create_response(api, [message("Weather?"), reference(call_id), output])
    assert [sent["role"] for sent in provider.requests[-1]["messages"]] == ["user", "assistant", "tool"]


async def test_referenced_items_count_for_the_size_of_the_input(api: httpx.AsyncClient, log: Log) -> None:
    file = {"type": "input_file", "filename": "a", "file_data": "!" * 1_000_000}  # not base64, so it stays in the item
    conversation_id = await create_conversation(api)
    ids = [
        item_id
        for _ in range(3)
        for item_id in await add(api, conversation_id, *[{"role": "user", "content": [file]}] * 3)
    ]
    before = log.count()
    refused = await post_response(api, [reference(item_id) for item_id in ids])
    assert error_of(refused) == (413, "request_too_large", "input")
    assert log.count() == before


async def test_the_error_for_an_unsuitable_referenced_item_names_its_place(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    first = await create_response(api, "one", conversation=conversation_id)
    search = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
    [elsewhere] = await add(api, await create_conversation(api), search)
    request = [reference(first["output"][0]["id"]), message("two"), reference(elsewhere)]
    refused = await post_response(api, request, conversation=conversation_id)
    assert error_of(refused) == (400, "unsupported_parameter", "input[2].type")


async def test_the_partial_output_of_a_failed_reply_can_be_referenced(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    def breaks_off(exchange: Any) -> None:
        exchange.begin_stream()
        exchange.text_chunk("half of")

    working, provider.script = provider.script, breaks_off
    failed = events_of(await post_response(api, "one", stream=True))[-1]["response"]
    provider.script = working
    [partial] = failed["output"]
    await create_response(api, [reference(partial["id"]), message("go on")], previous_response_id=failed["id"])
    assert texts(provider) == ["one", "half of", "go on"]


@pytest.mark.parametrize("deletion", ["the item", "its conversation"])
async def test_the_copy_of_a_deleted_item_is_not_sent_again(
    api: httpx.AsyncClient, provider: ScriptedProvider, deletion: str
) -> None:
    original = await create_conversation(api)
    [secret] = await add(api, original, message("secret"))
    working, provider.script = provider.script, lambda exchange: exchange.json(400, {})
    request = [message("one"), reference(secret)]
    failed = events_of(await post_response(api, request, stream=True))[-1]["response"]
    still_failed = events_of(await post_response(api, "two", stream=True, previous_response_id=failed["id"]))[-1]
    provider.script = working
    await create_response(api, "three", previous_response_id=still_failed["response"]["id"], store=False)
    assert texts(provider) == ["one", "secret", "two", "three"]
    path = f"/v1/conversations/{original}"
    await api.delete(f"{path}/items/{secret}" if deletion == "the item" else path)
    for previous, sent in ((failed["id"], ["one"]), (still_failed["response"]["id"], ["one", "two"])):
        await create_response(api, "four", previous_response_id=previous)
        assert texts(provider) == [*sent, "four"]


async def test_an_item_with_the_id_of_a_copied_item_is_left_out(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    [elsewhere] = await add(api, await create_conversation(api), message("elsewhere"))
    conversation_id = await create_conversation(api)
    await create_response(api, [reference(elsewhere), message("one")], conversation=conversation_id)
    with_id = {**message("elsewhere"), "id": elsewhere}
    await create_response(api, [with_id, message("two")], conversation=conversation_id)
    assert texts(provider) == ["elsewhere", "one", "Hello, world!", "two"]
    # The item of an unstored reply is added only once.
    unstored = {**message("unstored", "assistant"), "id": mint("msg")}
    own = {**message("own"), "id": "mine"}
    for text in ("three", "four"):
        await create_response(api, [unstored, own, message(text)], conversation=conversation_id)
    assert texts(provider)[4:] == ["Hello, world!", "unstored", "own", "three", "Hello, world!", "own", "four"]


async def test_a_retracted_item_that_a_client_still_has_does_not_come_back(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    [kept, retracted] = await add(api, conversation_id, message("one"), message("secret"))
    await api.delete(f"/v1/conversations/{conversation_id}/items/{retracted}")
    old_copy = [{**message("one"), "id": kept}, {**message("secret"), "id": retracted}]
    await create_response(api, [*old_copy, message("two")], conversation=conversation_id)
    assert texts(provider) == ["one", "two"]
    assert [event.item_id for event in appended(log, conversation_id)][:2] == [kept, retracted]
    assert len(appended(log, conversation_id)) == 4
    refused = await post_response(api, old_copy, conversation=conversation_id)
    assert error_of(refused) == (400, "input_already_in_conversation", "input")
    await create_response(api, old_copy)
    assert texts(provider) == ["one", "secret"]


async def test_an_input_may_have_a_thousand_items(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    ids = []
    for number in range(300):
        ids += await add(api, await create_conversation(api), message(f"old {number}"))
    request = [*map(reference, ids), *(message(f"new {number}") for number in range(700))]
    await create_response(api, request)
    assert texts(provider) == [f"old {number}" for number in range(300)] + [f"new {number}" for number in range(700)]
    refused = await post_response(api, [*request, message("one too many")])
    assert error_of(refused) == (400, "invalid_value", "input")
