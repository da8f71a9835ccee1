"""A client of the command API, and functions that read its answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

import httpx

from commands.main import create_app
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.documented_answers import checked_answers


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        hooks = checked_answers("commands", app)
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://store",
            headers={"Content-Type": "application/json"},
            timeout=60,
            event_hooks=hooks,
        ) as client:
            yield client


async def post_response(api: httpx.AsyncClient, text: Any, **body: Any) -> httpx.Response:
    return await api.post("/v1/responses", json={"input": text, **body})


async def create_response(api: httpx.AsyncClient, text: Any, **body: Any) -> dict[str, Any]:
    """The request must succeed."""
    answer = await post_response(api, text, **body)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def create_response_in_fork(
    api: httpx.AsyncClient, text: Any, response: dict[str, Any], **body: Any
) -> dict[str, Any]:
    """Creates a response in a new fork, which begins after `response`."""
    path = f"/v1/conversations/{response['conversation']['id']}/fork"
    forked = await api.post(path, json={"item": response["output"][-1]["id"]})
    assert forked.status_code == 200, forked.text
    return await create_response(api, text, conversation=forked.json()["id"], **body)


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = answer.text.strip().split("\n\n")
    return [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks if "data: " in block]


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """Status, code and param."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def output_text(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def sent_messages(request: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in request["messages"]]


async def eventually(read: Any, seconds: float = 10) -> Any:
    """Calls `read` until its value is not None, and returns the value. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            if (value := read()) is not None:
                return value
            await asyncio.sleep(0.01)


async def create_conversation(api: httpx.AsyncClient, **body: object) -> str:
    answer = await api.post("/v1/conversations", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def message(text: str, role: str = "user") -> dict[str, object]:
    return {"type": "message", "role": role, "content": text}
