"""A client that reads a reply's stream over several connections, and scripts for the provider."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tests.scripted_provider import Exchange, Script

WORDS = (
    "naïve ",
    "façade ",
    "🙂",
    "👩‍👩‍👧 ",
    "中文",
    " and ",
    "so\n",
    "on",
    '"quoted" ',
    "é",
    "\t",
    "0123456789 ",
)


def varied_answers(seed: int, pause_seconds: float = 0.003) -> Script:
    """The words depend only on the seed and the last message."""

    def script(exchange: Exchange) -> None:
        question = exchange.body["messages"][-1]["content"]
        rng = random.Random(f"{seed} {question}")
        exchange.begin_stream()
        for _ in range(rng.randint(5, 60)):
            exchange.text_chunk(rng.choice(WORDS))
            time.sleep(pause_seconds * rng.random() * 2)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


def endless_answer(exchange: Exchange) -> None:
    """Streams numbers for 100 seconds."""
    exchange.begin_stream()
    for n in range(10_000):
        exchange.text_chunk(f"{n} ")
        time.sleep(0.01)


class StreamReader:
    """Reads the stream of one reply, over one or more connections."""

    def __init__(self, events: Sequence[dict[str, Any]] = ()) -> None:
        """`events`: the events that another reader has read."""
        self.events = list(events)

    @property
    def response_id(self) -> str:
        return str(self.events[0]["response"]["id"])

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in (
            "response.completed",
            "response.incomplete",
            "response.failed",
        )

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "response.output_text.delta")

    async def ask(
        self, client: httpx.AsyncClient, url: str, body: Mapping[str, Any], max_events: int | None = None
    ) -> None:
        """Requests a reply and reads its stream, up to `max_events` events."""
        await self._read(client.stream("POST", f"{url}/v1/responses", json={**body, "stream": True}), max_events)

    async def resume(self, client: httpx.AsyncClient, url: str, max_events: int | None = None) -> None:
        """Reads the next events, up to `max_events`."""
        params = {"stream": "true", "starting_after": str(len(self.events) - 1)}
        await self._read(client.stream("GET", f"{url}/v1/responses/{self.response_id}", params=params), max_events)

    async def _read(self, connection: Any, max_events: int | None) -> None:
        count = 0
        async with connection as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                assert event["sequence_number"] == len(self.events), "an event is missing or repeated"
                self.events.append(event)
                count += 1
                if count == max_events:
                    return


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def retrieve(http: httpx.AsyncClient, url: str, response_id: str) -> dict[str, Any]:
    answer = await http.get(f"{url}/v1/responses/{response_id}")
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def retrieve_when(
    http: httpx.AsyncClient, url: str, response_id: str, status: str, timeout_seconds: float
) -> dict[str, Any]:
    async with asyncio.timeout(timeout_seconds):
        while True:
            response = await retrieve(http, url, response_id)
            if response["status"] == status:
                return response
            await asyncio.sleep(0.05)
