"""Replies whose input refers to items or repeats items."""

from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import pytest

from commands.main import create_app
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, message
from tests.queries.manual_projector import ManualProjector
from tests.scripted_provider import ScriptedProvider, scripted_provider

REQUEST = {"type": "mcp_approval_request", "id": "mcpr_a", "arguments": "{}", "name": "look", "server_label": "s"}
APPROVAL = {"type": "mcp_approval_response", "approval_request_id": "mcpr_a", "approve": True}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    changed = {"openai_base_url": provider.url, "model_window": 100_000, "model_api": "responses"}
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            yield client


def answer(item: dict[str, Any]) -> Any:
    return lambda exchange: exchange.stream_items(item)


def call(call_id: str) -> dict[str, Any]:
    return {"id": "fc_theirs", "type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}"}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "rain"}


async def test_lists_and_contexts_show_the_input_that_was_stored_and_sent(
    store: httpx.AsyncClient, api: httpx.AsyncClient, projector: ManualProjector, provider: ScriptedProvider
) -> None:
    text_item = {
        "id": "msg_theirs",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "ok"}],
    }
    conversation_id = await create_conversation(store)
    provider.script = answer(call("a"))
    await create_response(store, "Weather?", conversation=conversation_id)
    provider.script = answer(call("b"))
    await create_response(store, [output("a")], conversation=conversation_id)
    provider.script = answer(text_item)
    third = await create_response(
        store, [message("Weather?"), output("a"), output("b"), REQUEST, APPROVAL], conversation=conversation_id
    )
    reference = {"type": "item_reference", "id": third["output"][0]["id"]}
    fourth = await create_response(store, [message("x"), reference, message("y")])
    last = await create_response(store, [reference, message("z")], conversation=conversation_id)
    await projector.catch_up()

    async def read(path: str) -> Any:
        answered = await api.get(path)
        assert answered.status_code == 200, answered.text
        return answered.json()

    items = (await read(f"/v1/conversations/{conversation_id}/items?order=asc&limit=100"))["data"]
    assert [item["type"] for item in items] == [
        *("message", "function_call", "function_call_output", "function_call", "function_call_output"),
        *("mcp_approval_request", "mcp_approval_response", "message", "message", "message"),
    ]
    assert items[6]["approval_request_id"] == items[5]["id"] != "mcpr_a"
    assert items[7]["id"] == reference["id"]
    assert not any("mcpr_a" in str(item) for item in items)
    for response, kinds in (
        (third, ["function_call_output", "mcp_approval_request", "mcp_approval_response"]),
        (last, ["message"]),
    ):
        taken = (await read(f"/v1/responses/{response['id']}/input_items?order=asc"))["data"]
        assert [item["type"] for item in taken] == kinds
        assert [item["id"] for item in taken] == [
            item["id"] for item in items if item["id"] in {one["id"] for one in taken}
        ]
    copies = (await read(f"/v1/responses/{fourth['id']}/input_items?order=asc"))["data"]
    assert [item["content"][0]["text"] for item in copies] == ["x", "ok", "y"]
    assert copies[1]["id"] != reference["id"]
    for response in (third, fourth, last):
        sent = await read(f"/v1/responses/{response['id']}/context")
        assert sent["request_sha256_matches"] is True
    request = (await read(f"/v1/responses/{last['id']}/context"))["request"]["input"]
    assert request[5]["id"] == request[6]["approval_request_id"] == items[5]["id"]
