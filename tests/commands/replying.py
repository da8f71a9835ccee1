"""The command API with a scripted provider, and what a test asks of it. Imported by `conftest.py` and the tests of replies."""

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


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            yield client


async def ask(api: httpx.AsyncClient, text: Any, **body: Any) -> httpx.Response:
    return await api.post("/v1/responses", json={"input": text, **body})


async def asked(api: httpx.AsyncClient, text: Any, **body: Any) -> dict[str, Any]:
    """The Response; the request must succeed."""
    answer = await ask(api, text, **body)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = answer.text.strip().split("\n\n")
    return [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks if "data: " in block]


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """Status, code and param."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def said(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def shown(request: dict[str, Any]) -> list[tuple[str, Any]]:
    """Who said what, in a request that the provider was sent."""
    return [(message["role"], message["content"]) for message in request["messages"]]


async def until_over(look: Any, seconds: float = 10) -> Any:
    """What `look` gives, once it gives something."""
    async with asyncio.timeout(seconds):
        while True:
            if (found := look()) is not None:
                return found
            await asyncio.sleep(0.01)
