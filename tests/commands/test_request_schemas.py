"""The JSON Schemas of tools and answer formats in a request: checked without delaying other requests."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.commands.api_client import error_of, post_response
from tests.log import Log

WITH_PROVIDER = {"model_window": 100_000}


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
async def test_an_invalid_tool_or_schema_is_a_400_that_names_it(
    api: httpx.AsyncClient, log: Log, body: dict[str, Any], param: str
) -> None:
    answer = await api.post("/v1/responses", json={"input": "hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert log.count() == 0


async def test_checking_large_schemas_does_not_delay_other_requests(api: httpx.AsyncClient) -> None:
    large = {f"p{n}": {"type": "string"} for n in range(4_000)}
    checking = asyncio.create_task(post_response(api, "hi", tools=[function(properties=large)]))
    started_at, longest_delay = time.monotonic(), 0.0
    while not checking.done():
        slept_at = time.monotonic()
        await asyncio.sleep(0.01)
        longest_delay = max(longest_delay, time.monotonic() - slept_at)
    assert longest_delay < (time.monotonic() - started_at) / 3
    assert (await checking).status_code in (200, 400)  # it may not fit into the model's window
    too_large = await post_response(api, "hi", tools=[function(properties={**large, "p": {"enum": ["x" * 300_000]}})])
    assert error_of(too_large) == (400, "invalid_function_parameters", "tools[0].parameters")
