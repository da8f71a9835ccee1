"""Clients of Chat Completions. Each client sends its whole transcript with every request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from statistics import median
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from msgspec import Struct

from scripts.benchmarks.requests import TEXT, RequestFailed, wait_for_views

Json = dict[str, Any]

_FIRST, _END = b'"content":"', b"data: [DONE]"


class Added(Struct, frozen=True):
    """How many milliseconds later the first word comes from the store than from the provider or from the relay.

    Each is a difference of medians.
    """

    after_provider: float
    after_relay: float


async def added_by_chats(
    store_url: str,
    provider_url: str,
    relay_url: str,
    *,
    messages: int,
    clients: int,
    reply_seconds: float,
    seconds: float,
) -> Added:
    """What the store adds to the time until the first word. Each server is measured with `clients` clients.

    The first request of each chat has `messages` messages.
    """
    chats = _Chats(messages, clients, reply_seconds)
    own = await chats.first_words(f"{provider_url}/chat/completions", seconds, _nothing)
    relayed = await chats.first_words(f"{relay_url}/v1/chat/completions", seconds, _nothing)
    through = await chats.first_words(f"{store_url}/v1/chat/completions", seconds, partial(wait_for_views, store_url))
    return Added(through - own, through - relayed)


async def _nothing() -> None:
    """There are no views to wait for."""


class _Chats:
    def __init__(self, messages: int, clients: int, reply_seconds: float) -> None:
        self._messages = messages
        self._clients = clients
        self._reply_seconds = reply_seconds

    async def first_words(self, url: str, seconds: float, settle: Callable[[], Awaitable[None]]) -> float:
        """The median time until the first word, in milliseconds.

        The first request of each chat does not count, because it stores the history. `settle` waits for this work.
        """
        transcripts = [self._transcript() for _ in range(self._clients)]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await self._ask(session, url, transcripts, 0)
            await settle()
            times = await self._ask(session, url, transcripts, self._reply_seconds + seconds)
        return median(times)

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, transcripts: Sequence[list[Json]], seconds: float
    ) -> list[float]:
        """The times until the first words, in milliseconds.

        The first requests are spread over `reply_seconds`. After `seconds`, no chat begins another request.
        """
        started = time.perf_counter()

        async def chat(number: int, transcript: list[Json]) -> list[float]:
            await asyncio.sleep(started + self._reply_seconds * number / self._clients - time.perf_counter())
            times = [await _turn(session, url, transcript)]
            while time.perf_counter() < started + seconds:
                times.append(await _turn(session, url, transcript))
            return times

        return [ms for times in await asyncio.gather(*map(chat, count(), transcripts)) for ms in times]

    def _transcript(self) -> list[Json]:
        """No other chat has this history. The store could not tell equal histories apart."""
        name = uuid4().hex
        return [
            {"role": ("user", "assistant")[n % 2], "content": f"{name} {n} {TEXT}"} for n in range(self._messages - 1)
        ]


async def _turn(session: aiohttp.ClientSession, url: str, transcript: list[Json]) -> float:
    """Returns the milliseconds until the first word. Raises RequestFailed."""
    transcript.append({"role": "user", "content": TEXT})
    body = msgspec.json.encode({"model": "even", "stream": True, "messages": transcript})
    first_word_at: float | None = None
    received = b""
    started = time.perf_counter()
    async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
        async for data in answer.content.iter_any():
            received += data
            if first_word_at is None and _FIRST in received:
                first_word_at = time.perf_counter()
    if first_word_at is None or _END not in received:
        raise RequestFailed(f"{url}: {answer.status} {received[:300].decode(errors='replace')}")
    transcript.append({"role": "assistant", "content": _text_of(received)})
    return (first_word_at - started) * 1000


def _text_of(stream: bytes) -> str:
    chunks = [msgspec.json.decode(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
