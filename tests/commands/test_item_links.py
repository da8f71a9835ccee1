"""Items that name other items by id. A link must lead to the same item in lists and in requests to a provider."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from domain.events import ItemAppended
from domain.items import as_output
from tests.commands.api_client import create_conversation, create_response, error_of, events_of, message, post_response
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000, "model_api": "responses"}

REQUEST = {"type": "mcp_approval_request", "arguments": "{}", "name": "look", "server_label": "s"}
RESPONSE = {"type": "mcp_approval_response", "approve": True}
EXEC = {"type": "exec", "command": ["ls"], "env": {}}
SHELL = {"type": "local_shell_call", "action": EXEC, "status": "completed"}
PATCH = {"type": "apply_patch_call", "status": "completed", "operation": {"type": "delete_file", "path": "a"}}
SCREEN = {"type": "computer_screenshot", "image_url": "data:image/png;base64,iVBORw0KGgo="}
COMPUTER = {"type": "computer_call", "pending_safety_checks": [], "status": "completed", "action": {"type": "wait"}}
IMAGE = {"type": "image_generation_call", "status": "completed", "result": "AA=="}


@pytest.fixture(autouse=True)
def answering(provider: ScriptedProvider) -> None:
    content = [{"type": "output_text", "text": "ok", "annotations": []}]
    answer = {"id": "msg_theirs", "type": "message", "role": "assistant", "content": content}
    provider.script = lambda exchange: exchange.stream_items(answer)


async def add(api: httpx.AsyncClient, conversation_id: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
    assert answer.status_code == 200, answer.text
    added: list[dict[str, Any]] = answer.json()["data"]
    return added


def listed(log: Log, conversation_id: str) -> list[dict[str, Any]]:
    """The items, newest first, as in the API."""
    appended = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    return [json.loads(as_output(event.item_id, event.item)) for event in reversed(appended)]


def of_type(items: Iterable[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(item for item in items if item["type"] == kind)


PAIRS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    # (first item, second item, field of the second item, field of the first item with the same value)
    ({**REQUEST, "id": "mcpr_a"}, {**RESPONSE, "approval_request_id": "mcpr_a"}, "approval_request_id", "id"),
    (
        {**REQUEST, "id": "mcpr_a"},
        {**REQUEST, "type": "mcp_call", "approval_request_id": "mcpr_a"},
        "approval_request_id",
        "id",
    ),
    (
        {**SHELL, "id": "lsh_a", "call_id": "call_a"},
        {"type": "local_shell_call_output", "id": "call_a", "output": "{}"},
        "call_id",
        "call_id",
    ),
    (
        {**SHELL, "id": "lsh_a", "call_id": "call_a"},
        {"type": "local_shell_call_output", "id": "lsh_a", "output": "{}"},
        "call_id",
        "call_id",
    ),
    ({**SHELL, "id": "lsh_a"}, {"type": "local_shell_call_output", "id": "lsh_a", "output": "{}"}, "call_id", "call_id"),
    (
        {**COMPUTER, "id": "cu_a", "call_id": "call_a"},
        {"type": "computer_call_output", "call_id": "call_a", "output": SCREEN},
        "call_id",
        "call_id",
    ),
    ({**COMPUTER, "id": "cu_a"}, {"type": "computer_call_output", "call_id": "cu_a", "output": SCREEN}, "call_id", "call_id"),
    ({**PATCH, "id": "apc_a"}, {"type": "apply_patch_call_output", "call_id": "apc_a", "status": "completed"}, "call_id", "call_id"),
]  # fmt: skip


@pytest.mark.parametrize("way", ["together", "apart", "far apart", "in replies", "imported", "created with"])
async def test_a_link_leads_to_the_same_item_in_lists_and_requests(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, way: str
) -> None:
    for first, second, field, target_field in PAIRS:
        conversation_id = await create_conversation(api)
        # `earlier` has the same ids as `first`. The link must lead to `first`.
        earlier = {**first, "name": "earlier"}
        match way:
            case "together":
                await add(api, conversation_id, message("Q"), earlier, first, second)
            case "created with":
                conversation_id = await create_conversation(api, items=[message("Q"), earlier, first, second])
            case "imported":
                line = {"items": [message("Q"), earlier, first, second], "title": "imported"}
                assert (await api.post("/v1/import", json=line)).json()["conversations"] == 1
                [(stream,)] = log.rows("SELECT originator_id FROM events ORDER BY notification_id DESC LIMIT 1")
                conversation_id = f"conv_{stream.hex}"
            case "in replies":
                await create_response(api, [message("Q"), earlier, first], conversation=conversation_id)
                await create_response(api, [second], conversation=conversation_id)
            case _:
                await add(api, conversation_id, message("Q"), earlier, first)
                for _ in range(15 if way == "far apart" and first is PAIRS[0][0] else 0):
                    await add(api, conversation_id, *[message("more", "assistant")] * 20)
                await add(api, conversation_id, second)
        source = of_type(listed(log, conversation_id), first["type"])
        link = of_type(listed(log, conversation_id), second["type"])
        assert link[field] == source[target_field], (way, first, second)
        assert source["id"] != first["id"]
        assert link["id"] not in (first["id"], second.get("id"))
        await create_response(api, "and?", conversation=conversation_id)
        sent = provider.requests[-1]["input"][::-1]
        assert of_type(sent, second["type"])[field] == of_type(sent, first["type"])[target_field], (way, first, second)
        assert of_type(sent, first["type"]).get("id") in (None, source["id"])


async def test_an_image_can_be_named_by_its_id_alone(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = lambda exchange: exchange.stream_items({**IMAGE, "id": "ig_theirs"})
    first = await create_response(api, "Draw.")
    [image] = first["output"]
    only_id = {"type": "image_generation_call", "id": image["id"]}
    await create_response(api, [message("Once more."), only_id], previous_response_id=first["id"])
    kinds = [item["type"] for item in provider.requests[-1]["input"]]
    assert kinds == ["message", "image_generation_call", "message"]
    await create_response(api, [only_id, message("Once more.")])
    sent = provider.requests[-1]["input"]
    assert sent[0]["result"] == "AA=="
    assert sent[0]["id"] not in (image["id"], "ig_theirs")
    conversation_id = await create_conversation(api)
    await add(api, conversation_id, message("Draw."), {**IMAGE, "id": "mine"}, message("Here", "assistant"))
    await create_response(
        api, [{"type": "image_generation_call", "id": "mine"}, message("Once more.")], conversation=conversation_id
    )
    assert [item["type"] for item in provider.requests[-1]["input"]].count("image_generation_call") == 1
    before = log.count()
    refused = await post_response(api, [message("x"), {"type": "image_generation_call", "id": "ig_none"}])
    assert error_of(refused) == (404, "item_not_found", "input[1].id")
    assert log.count() == before


async def test_an_approval_sent_to_the_provider_names_the_preceding_request(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    working = provider.script
    provider.script = lambda exchange: exchange.stream_items({**REQUEST, "id": "mcpr_theirs"})
    first = await create_response(api, "Do it.")
    request_id = first["output"][0]["id"]
    provider.script = working
    approval = {**RESPONSE, "approval_request_id": request_id}
    second = await create_response(api, [approval], previous_response_id=first["id"])
    sent = provider.requests[-1]["input"]
    assert sent[1]["id"] == sent[2]["approval_request_id"] == request_id
    # Here the approval leads to the copy of the request.
    copied = await create_response(
        api, [message("Do it."), {"type": "item_reference", "id": request_id}, approval, message("Go on.")]
    )
    sent = provider.requests[-1]["input"]
    assert sent[1]["id"] == sent[2]["approval_request_id"] != request_id
    await create_response(api, [approval, message("Again?")], conversation=copied["conversation"]["id"])
    newest = provider.requests[-1]["input"][-2]
    assert newest["approval_request_id"] == sent[1]["id"]
    # A failed reply's input is sent again, with new ids. The link leads to the new id.
    provider.script = lambda exchange: exchange.begin_stream()
    request = [{**REQUEST, "id": "mcpr_mine"}, {**RESPONSE, "approval_request_id": "mcpr_mine"}]
    failed = events_of(await post_response(api, request, stream=True))[-1]["response"]
    provider.script = working
    await create_response(api, "Go on.", previous_response_id=failed["id"])
    sent = provider.requests[-1]["input"]
    assert sent[0]["id"] == sent[1]["approval_request_id"]
    assert second["status"] == "completed"


async def test_an_unusable_id_of_a_client_is_not_stored(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api, items=[message("Q"), {**REQUEST, "id": None}])
    added = await add(api, conversation_id, {**RESPONSE, "approval_request_id": "mcpr_of_old"})
    assert added[0]["approval_request_id"] == "mcpr_of_old"
    for unusual in (7, "", "x" * 257, ["a"]):
        [kept] = await add(api, conversation_id, {**message("x"), "id": unusual})
        assert kept["id"].startswith("msg_")
    events = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert not any(b'"id"' in event.item for event in events)


async def test_a_call_id_that_is_also_the_id_of_another_call_is_kept(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    items = [
        {"type": "function_call", "id": "1", "call_id": "2", "name": "look", "arguments": "{}"},
        {"type": "function_call", "id": "2", "call_id": "3", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "2", "output": "first"},
        {"type": "function_call_output", "call_id": "3", "output": "second"},
    ]
    added = await add(api, conversation_id, *items)
    assert [item["call_id"] for item in added] == ["2", "3", "2", "3"]
