"""Clients of Chat Completions: each sends its whole transcript with every request, and adds the answer to it."""

import asyncio
import time
from statistics import median
from typing import Any

import aiohttp
import msgspec

from scripts.benchmarks.requests import TEXT, RequestFailed

_FIRST, _END = b'"content":"', b"data: [DONE]"


async def added_by_chats(
    store_url: str, provider_url: str, *, messages: int, clients: int, reply_seconds: float, seconds: float
) -> float:
    """How much later the first word comes from the store than from its provider, in milliseconds: the difference of the medians.

    Both get the same transcripts, which begin with this many messages.
    """
    own = await _first_words(f"{provider_url}/chat/completions", messages, clients, reply_seconds, seconds)
    through = await _first_words(f"{store_url}/v1/chat/completions", messages, clients, reply_seconds, seconds)
    return through - own


async def _first_words(url: str, messages: int, clients: int, reply_seconds: float, seconds: float) -> float:
    """The median time until the first word, in milliseconds. Does not count each client's first request, which stores its history."""
    started = time.perf_counter()

    async def chat(number: int) -> list[float]:
        transcript = [
            {"role": ("user", "assistant")[n % 2], "content": f"{number}.{n} {TEXT}"} for n in range(messages - 1)
        ]
        await asyncio.sleep(started + reply_seconds * number / clients - time.perf_counter())
        times = []
        while time.perf_counter() < started + 2 * reply_seconds + seconds:
            times.append(await _turn(session, url, transcript))
        return times[1:]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        times_of_clients = await asyncio.gather(*map(chat, range(clients)))
    return median(ms for times in times_of_clients for ms in times)


async def _turn(session: aiohttp.ClientSession, url: str, transcript: list[dict[str, Any]]) -> float:
    """Asks, and adds the answer to the transcript. Returns the milliseconds until the first word. Raises RequestFailed."""
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
