"""A client of reply streams that loses its connection, and a provider that has much to say. Imported by the tests of streams."""

import json
import random
import threading
from collections.abc import Mapping
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


def talkative(seed: int, pause: float = 0.003) -> Script:
    """Each request is answered at some length, piece by piece; by its own text, so that the answer says whose it is."""

    def script(exchange: Exchange) -> None:
        asked = exchange.provider.requests[-1]["messages"][-1]["content"]
        chance = random.Random(f"{seed} {asked}")
        waiting = threading.Event()
        exchange.begin_stream()
        for _ in range(chance.randint(5, 60)):
            exchange.text_chunk(chance.choice(WORDS))
            waiting.wait(pause * chance.random() * 2)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    return script


def endless(exchange: Exchange) -> None:
    """Speaks until nobody listens."""
    exchange.begin_stream()
    waiting = threading.Event()
    for n in range(10_000):
        exchange.text_chunk(f"{n} ")
        waiting.wait(0.01)


class Follower:
    """Reads one reply's stream over as many connections as it takes. `events` are those it was given, by their numbers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    @property
    def response_id(self) -> str:
        return str(self.events[0]["response"]["id"])

    @property
    def is_over(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in (
            "response.completed",
            "response.incomplete",
            "response.failed",
        )

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "response.output_text.delta")

    async def ask(self, client: httpx.AsyncClient, url: str, body: Mapping[str, Any], most: int | None = None) -> None:
        """Asks for a reply, and reads at most so many events."""
        await self._read(client.stream("POST", f"{url}/v1/responses", json={**body, "stream": True}), most)

    async def resume(self, client: httpx.AsyncClient, url: str, most: int | None = None) -> None:
        """Reads on behind the last event, at most so many more."""
        asked = {"stream": "true", "starting_after": str(len(self.events) - 1)}
        await self._read(client.stream("GET", f"{url}/v1/responses/{self.response_id}", params=asked), most)

    async def _read(self, connection: Any, most: int | None) -> None:
        read = 0
        async with connection as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                assert event["sequence_number"] == len(self.events), "a gap, or a repeat"
                self.events.append(event)
                read += 1
                if read == most:
                    return
