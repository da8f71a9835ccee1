"""Clients of Chat Completions: each sends its whole transcript with every request, and adds the answer to it."""

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
    """How many milliseconds later the first word of a reply comes from the store: the difference of two medians.

    after_provider  how much later than from the provider itself
    after_relay     how much later than from a server that only passes the request and the answer on
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
    """What the store adds to the time until the first word.

    Measures the provider, then the relay, then the store. Each gets transcripts of the same length from the same number
    of clients. The first request of each chat has `messages` messages.
    """
    chats = _Chats(messages, clients, reply_seconds)
    own = await chats.first_words(f"{provider_url}/chat/completions", seconds, _nothing)
    relayed = await chats.first_words(f"{relay_url}/v1/chat/completions", seconds, _nothing)
    through = await chats.first_words(f"{store_url}/v1/chat/completions", seconds, partial(wait_for_views, store_url))
    return Added(through - own, through - relayed)


async def _nothing() -> None:
    """There are no views to wait for."""


class _Chats:
    """One chat for each client. The first request of a chat has `messages` messages."""

    def __init__(self, messages: int, clients: int, reply_seconds: float) -> None:
        self._messages = messages
        self._clients = clients
        self._reply_seconds = reply_seconds

    async def first_words(self, url: str, seconds: float, settle: Callable[[], Awaitable[None]]) -> float:
        """The median time until the first word, in milliseconds.

        The first request of each chat is not counted. It stores the history, which is much work for the views too. So
        `settle` is called after the first requests, before the others are sent.
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
        """Runs the chats in parallel. Returns the times until the first words, in milliseconds.

        The first requests of the chats are spread over `reply_seconds`. Each chat sends requests one after the other, at least one. After
        `seconds`, no chat begins another request.
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
        """A history that no other chat has. If two were equal, the store would find both conversations."""
        name = uuid4().hex
        return [
            {"role": ("user", "assistant")[n % 2], "content": f"{name} {n} {TEXT}"} for n in range(self._messages - 1)
        ]


async def _turn(session: aiohttp.ClientSession, url: str, transcript: list[Json]) -> float:
    """Sends a question, and adds it and the answer to the transcript. Returns the milliseconds until the first word.

    Raises RequestFailed.
    """
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
