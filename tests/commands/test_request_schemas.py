"""The tools and answer formats of a request, and their JSON Schemas. References in a schema are not fetched."""

import socket
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
        ({"tools": [function(pattern="(")]}, "tools[0].parameters"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": []}}}, "text.format.schema"),
    ],
)
async def test_an_invalid_tool_or_schema_is_a_400_that_names_it(
    api: httpx.AsyncClient, log: Log, body: dict[str, Any], param: str
) -> None:
    answer = await api.post("/v1/responses", json={"input": "hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert log.count() == 0


async def test_a_schema_that_is_too_large_is_a_400(api: httpx.AsyncClient) -> None:
    large = {f"p{n}": {"type": "string"} for n in range(4_000)}
    fits = await post_response(api, "hi", tools=[function(properties=large)])
    # The schema is not refused. But the model's window may be too small for it.
    assert fits.status_code == 200 or error_of(fits)[1] == "context_length_exceeded", fits.text
    too_large = await post_response(api, "hi", tools=[function(properties={**large, "p": {"enum": ["x" * 300_000]}})])
    assert error_of(too_large) == (400, "invalid_function_parameters", "tools[0].parameters")


@pytest.mark.parametrize("name", ["$ref", "$schema"])
async def test_references_in_a_schema_are_not_fetched(api: httpx.AsyncClient, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        await post_response(api, "hi", tools=[function(**{name: f"http://127.0.0.1:{listener.getsockname()[1]}/x"})])
        with pytest.raises(BlockingIOError):
            listener.accept()
