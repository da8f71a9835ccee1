"""The gateway in one process: which methods a path has on both sides together."""

from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import httpx
import pytest

from infrastructure.http.connections import Connections
from infrastructure.settings import Settings
from scripts.gateway import create_app

CONVERSATION = f"/v1/conversations/conv_{1:032x}"


@pytest.fixture
async def gateway() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(), Event(), Connections())  # no store is needed
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", CONVERSATION, "DELETE, GET, HEAD, OPTIONS, POST"),
        ("TRACE", CONVERSATION, "DELETE, GET, HEAD, OPTIONS, POST"),
        ("PROPFIND", f"{CONVERSATION}/items", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/import", "OPTIONS, POST"),
        ("DELETE", "/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_405_names_the_methods_of_both_sides(
    gateway: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await gateway.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("method", ["GET", "POST", "TRACE"])
async def test_a_path_that_neither_side_serves_is_a_404(gateway: httpx.AsyncClient, method: str) -> None:
    answer = await gateway.request(method, "/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["*", "/v1/conversations", "/v1/nothing"])
async def test_options_is_answered_for_the_whole_server_and_for_every_path(
    gateway: httpx.AsyncClient, path: str
) -> None:
    transport = gateway._transport
    assert isinstance(transport, httpx.ASGITransport)
    scope = {"type": "http", "method": "OPTIONS", "path": path, "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    await transport.app(scope, receive, send)

    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"allow"]) == (204, b"GET, HEAD, POST, DELETE, OPTIONS")
