"""How soon the first word of a reply is there while many conversations stream, beside the same provider asked directly."""

import asyncio
import time
from collections.abc import Mapping
from statistics import quantiles
from typing import Any

import aiohttp
import uvloop
from msgspec import Struct

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import RequestFailed, begin_conversations

FLOOR_P50, FLOOR_P99 = "the provider itself, p50", "the provider itself, p99"


class Question(Struct, frozen=True):
    """A streamed request. The first word has come with `first`; a whole answer has `end` in it."""

    url: str
    body: dict[str, Any]
    first: bytes
    end: bytes


class Stream(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._questions: dict[BenchStore, list[Question]] = {}

    def prepare(self, store: BenchStore) -> None:
        idents = uvloop.run(begin_conversations(store.base_url, self.sizes.streams))
        self._questions[store] = [
            Question(
                f"{store.base_url}/v1/responses",
                {"conversation": ident, "input": "Go on.", "stream": True, "model": "even"},
                b"response.output_text.delta",
                b"event: response.completed",
            )
            for ident in idents
        ]
        uvloop.run(
            _first_words(self._questions[store], self.sizes.reply_seconds, 0)
        )  # what is slow only once is not measured

    def measure(self, store: BenchStore) -> list[Measurement]:
        p50, p99 = uvloop.run(_first_words(self._questions[store], self.sizes.reply_seconds, self.sizes.seconds))
        name = f"first word of a reply, {self.sizes.streams} streams"
        return [
            Measurement(f"{name}, p50", p50, "ms", (FLOOR_P50,)),
            Measurement(f"{name}, p99", p99, "ms", (FLOOR_P99,)),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - the provider is the floor
        body = {"model": "even", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
        question = Question(f"{store.env['OPENAI_BASE_URL']}/chat/completions", body, b'"content":', b"data: [DONE]")
        p50, p99 = uvloop.run(
            _first_words([question] * self.sizes.streams, self.sizes.reply_seconds, self.sizes.seconds)
        )
        return {FLOOR_P50: p50, FLOOR_P99: p99}


async def _first_words(questions: list[Question], reply_seconds: float, seconds: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds. All stream at once, each again and again; they begin one after the other."""
    begin = time.perf_counter()
    end = begin + reply_seconds + seconds

    async def repeat(number: int, question: Question) -> list[float]:
        await asyncio.sleep(begin + reply_seconds * number / len(questions) - time.perf_counter())
        taken = []
        while time.perf_counter() < end:
            taken.append(await _first_word(session, question))
        return taken

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        found = await asyncio.gather(*(repeat(number, question) for number, question in enumerate(questions)))
    cuts = quantiles([each for taken in found for each in taken], n=100, method="inclusive")
    return cuts[49], cuts[98]


async def _first_word(session: aiohttp.ClientSession, question: Question) -> float:
    """Milliseconds until the first word came; returns when the answer has ended. Raises RequestFailed."""
    began = time.perf_counter()
    first: float | None = None
    seen = b""
    async with session.post(question.url, json=question.body) as answer:
        async for data in answer.content.iter_any():
            seen += data
            if first is None and question.first in seen:
                first = time.perf_counter()
    if first is None or question.end not in seen:
        raise RequestFailed(f"{question.url}: {answer.status} {seen[:300].decode(errors='replace')}")
    return (first - began) * 1000
