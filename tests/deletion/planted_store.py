"""A running store with planted words. No answer may contain a word after its deletion."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS
from tests.log import Log
from tests.principals import headers_of
from tests.replies.both_apis import open_both_apis, served
from tests.scripted_provider import Exchange, ScriptedProvider

ANN = headers_of("ann")
"""Ann owns nearly every conversation. She has no scope `audit`."""


class PlantedStore:
    def __init__(self, http: httpx.AsyncClient, metrics: Metrics, log: Log, provider: ScriptedProvider) -> None:
        self.http = http
        self.metrics = metrics
        self.log = log
        self.provider = provider
        self.planted: list[str] = []
        self.keyed: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """Path, body and headers of the requests with an idempotency key."""

    def plant(self, kind: str) -> str:
        """Returns a new word, and adds it to `planted`."""
        word = f"Zq{kind}{len(self.planted)}qZ"
        self.planted.append(word)
        return word

    async def post(
        self, path: str, *, is_keyed: bool = False, status: int = 200, sender: str = "ann", **body: Any
    ) -> dict[str, Any]:
        """Sends a POST, with an idempotency key if `is_keyed`."""
        key = {"Idempotency-Key": f"key-{len(self.keyed)}"} if is_keyed else {}
        headers = {**headers_of(sender), **key}
        if is_keyed:
            self.keyed.append((path, body, headers))
        answer = await self.http.post(path, json=body, headers=headers)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        parsed: dict[str, Any] = answer.json()
        return parsed

    async def delete(self, path: str, sender: str = "ann") -> None:
        answer = await self.http.delete(path, headers=headers_of(sender))
        assert answer.status_code == 200, (path, answer.status_code, answer.text)

    def answer_with(self, script: Callable[[Exchange], None] | str) -> None:
        self.provider.script = (lambda exchange: exchange.stream_text(script)) if isinstance(script, str) else script

    def ids(self, sql: str) -> list[str]:
        return [str(row[0]) for row in self.log.rows(sql)]

    @property
    def conversations(self) -> list[str]:
        return self.ids("SELECT DISTINCT 'conv_' || replace(originator_id::text, '-', '') FROM events")

    @property
    def responses(self) -> list[str]:
        return self.ids("SELECT response_id FROM responses")

    @property
    def items(self) -> list[str]:
        return self.ids("SELECT item_id FROM events WHERE topic = 'item.appended'")


@asynccontextmanager
async def open_planted_store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[PlantedStore]:
    changed = {"openai_base_url": provider.url, "model_window": 4_000, "default_model": "scripted", "model_timeout": 5}
    stop = asyncio.Event()
    async with open_both_apis(settings.model_copy(update=changed), with_principals=True, views=ALL_VIEWS) as apis:
        projecting = asyncio.create_task(apis.projector.run(stop))
        async with served(apis.app) as http:
            http.headers.update(ANN)
            yield PlantedStore(http, apis.metrics, Log(settings.postgres_url), provider)
        stop.set()
        await projecting


def thinks_and_calls(thought: str, text: str, name: str, arguments: dict[str, Any]) -> Callable[[Exchange], None]:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.delta(reasoning_content=thought)
        exchange.text_chunk(text)
        call = {"index": 0, "id": "call_x", "type": "function"}
        exchange.delta(tool_calls=[{**call, "function": {"name": name, "arguments": json.dumps(arguments)}}])
        exchange.text_chunk(finish_reason="tool_calls")
        exchange.end_stream()

    return script


def refuses_with(text: str) -> Callable[[Exchange], None]:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.delta(refusal=text)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


def breaks_off_after(text: str) -> Callable[[Exchange], None]:
    """A script: the model sends a text, and then the connection ends without an end of the stream."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk(text)

    return script
