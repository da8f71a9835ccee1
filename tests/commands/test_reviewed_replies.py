"""Replies where a review found them wanting: requests that upset the store, and ends that come in an unlucky moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from commands.main import create_app
from infrastructure.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.replying import ask, error_of
from tests.log import Log
from tests.provider import Provider
from tests.provider import provider as running_provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    yield from running_provider()


@pytest.fixture
async def apis(settings: Settings, provider: Provider) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two processes' command APIs."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            app = create_app(settings.model_copy(update={"openai_base_url": provider.url}), Metrics())
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store", timeout=60)
            clients.append(await stack.enter_async_context(client))
        yield clients


@pytest.fixture
def api(apis: list[httpx.AsyncClient]) -> httpx.AsyncClient:
    return apis[0]


def function(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "name": "f", "parameters": {"type": "object", **schema}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search", "name": ["x"]}]}, "tools[0].type"),
        ({"tools": [function()], "tool_choice": {"type": "function", "name": {}}}, "tool_choice.name"),
        ({"tools": [function(pattern="a{99999999999}")]}, "tools[0].parameters"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": []}}}, "text.format.schema"),
    ],
)
async def test_whatever_a_tool_is_called_and_a_schema_holds_the_answer_names_it(
    api: httpx.AsyncClient, log: Log, body: dict[str, Any], param: str
) -> None:
    answer = await api.post("/v1/responses", json={"input": "hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert log.count() == 0


async def test_schemas_of_any_size_keep_nobody_else_waiting(api: httpx.AsyncClient) -> None:
    large = {f"p{n}": {"type": "string"} for n in range(4_000)}
    checked = asyncio.create_task(ask(api, "hi", tools=[function(properties=large)]))
    longest = 0.0
    while not checked.done():
        since = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - since)
    assert longest < 0.5
    assert (await checked).status_code in (200, 400)  # it may not fit into the model
    too_large = await ask(api, "hi", tools=[function(properties={**large, "p": {"enum": ["x" * 300_000]}})])
    assert error_of(too_large) == (400, "invalid_function_parameters", "tools[0].parameters")
