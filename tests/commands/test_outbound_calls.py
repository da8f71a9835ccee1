"""The store never opens a URL that a client sends."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from infrastructure.settings import Settings
from tests.commands.api_client import open_api
from tests.scripted_provider import Exchange, ScriptedProvider


@pytest.fixture
async def bait() -> AsyncIterator[tuple[str, list[str]]]:
    """(URL, requests) of a server that nobody may call."""
    requests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.read(1000)).decode(errors="replace"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    server.close()


def script(exchange: Exchange) -> None:
    if exchange.path.endswith("/responses"):
        part = {"type": "output_text", "text": "Hello", "annotations": []}
        exchange.stream_items({"type": "message", "id": "msg_1", "role": "assistant", "content": [part]})
    else:
        exchange.stream_text("Hello")


def inputs(url: str) -> list[Any]:
    """Inputs with this URL in items of several kinds."""
    user = {"type": "message", "role": "user"}
    call = {"call_id": "c", "name": "f"}
    return [
        [{**user, "content": f"Look at {url}/text"}],
        [{**user, "content": [{"type": "input_image", "image_url": f"{url}/image.png", "detail": "high"}]}],
        [{**user, "content": [{"type": "input_file", "file_url": f"{url}/file.pdf"}]}],
        [
            {"type": "function_call", **call, "arguments": json.dumps({"url": f"{url}/argument"})},
            {"type": "function_call_output", "call_id": "c", "output": f"{url}/output"},
        ],
        [
            {"type": "computer_call", "id": "cu_1", "call_id": "c", "action": {"type": "wait"}, "status": "completed"},
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "image_url": f"{url}/screen.png"},
            },
        ],
    ]


@pytest.mark.parametrize("model_api", ["chat", "responses"])
async def test_a_url_in_a_request_is_never_opened(
    settings: Settings, provider: ScriptedProvider, bait: tuple[str, list[str]], model_api: str
) -> None:
    url, requests = bait
    provider.script = script
    changed = {"openai_base_url": provider.url, "model_api": model_api}
    tools = [{"type": "mcp", "server_label": "s", "server_url": f"{url}/mcp", "require_approval": "never"}]
    async with open_api(settings.model_copy(update=changed)) as api:
        statuses: list[int] = []
        for items in inputs(url):
            body = {"input": items, "instructions": url, "model": "scripted"}
            for path, sent in (
                ("/v1/conversations", {"items": items, "metadata": {"url": url}}),
                ("/v1/import", {"items": items, "title": url}),
                ("/v1/responses", body),
                ("/v1/responses", {**body, "tools": tools}),
                ("/v1/responses/input_tokens", body),
                ("/v1/responses/compact", body),
            ):
                statuses.append((await api.post(path, json=sent)).status_code)
    assert {*statuses} <= {200, 400}
    assert statuses.count(200) > 15
    assert f"{url}/image.png" in json.dumps(provider.requests)  # the provider may open it
    assert requests == []
