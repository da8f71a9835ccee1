"""How soon the first word of a reply is there while many conversations stream, beside the same provider asked directly."""

import asyncio
import time
from collections.abc import Mapping
from statistics import quantiles
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.provider import PIECES, PIECES_A_SECOND
from scripts.benchmarks.requests import RequestFailed, begin_conversations

_REPLY_SECONDS = PIECES / PIECES_A_SECOND
_READ_BYTES = 256 * 1024


class Question(Struct, frozen=True):
    """A streamed request: the first word has come with `first`, and the answer ends with `end`."""

    path: str
    body: bytes
    first: bytes
    end: bytes


class Stream(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._idents: dict[BenchStore, list[str]] = {}

    def prepare(self, store: BenchStore) -> None:
        self._idents[store] = uvloop.run(begin_conversations(store.base_url, self.sizes.streams))

    def measure(self, store: BenchStore) -> list[Measurement]:
        questions = []
        for ident in self._idents[store]:
            body = msgspec.json.encode({"conversation": ident, "input": "Go on.", "stream": True, "model": "even"})
            questions.append(
                Question("/v1/responses", body, b"response.output_text.delta", b"event: response.completed")
            )
        p50, p99 = uvloop.run(_first_words(store.base_url, questions, self.sizes.seconds))
        name = f"first word of a reply, {self.sizes.streams} streams"
        return [
            Measurement(f"{name}, p50", p50, "ms", "the provider itself, p50"),
            Measurement(f"{name}, p99", p99, "ms", "the provider itself, p99"),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - the provider is the floor
        body = msgspec.json.encode(
            {"model": "even", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
        )
        questions = [Question("/v1/chat/completions", body, b'"content":', b"data: [DONE]")] * self.sizes.streams
        provider_url = store.env["OPENAI_BASE_URL"].removesuffix("/v1")
        p50, p99 = uvloop.run(_first_words(provider_url, questions, self.sizes.seconds))
        return {"the provider itself, p50": p50, "the provider itself, p99": p99}


async def _first_words(base_url: str, questions: list[Question], seconds: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds. Each question has a connection, and is asked again and again; they begin one after the other."""
    parts = urlsplit(base_url)
    begin = time.perf_counter()
    end = begin + _REPLY_SECONDS + seconds

    async def repeat(number: int, question: Question) -> list[float]:
        await asyncio.sleep(begin + _REPLY_SECONDS * number / len(questions) - time.perf_counter())
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_READ_BYTES)
        head = f"POST {question.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        taken: list[float] = []
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(f"{head}content-length: {len(question.body)}\r\n\r\n".encode() + question.body)
            taken.append((await _first_word(reader, question) - began) * 1000)
        writer.close()
        return taken

    found = await asyncio.gather(*(repeat(number, question) for number, question in enumerate(questions)))
    cuts = quantiles([each for taken in found for each in taken], n=100, method="inclusive")
    return cuts[49], cuts[98]


async def _first_word(reader: asyncio.StreamReader, question: Question) -> float:
    """When the first word came; returns when the answer has ended. Raises RequestFailed."""
    first: float | None = None
    seen = b""
    while not (question.end in seen and seen.endswith(b"0\r\n\r\n")):
        data = await reader.read(_READ_BYTES)
        seen += data
        if not data or not seen.startswith(b"HTTP/1.1 200"[: len(seen)]):
            raise RequestFailed(f"{question.path}: {seen[:600].decode(errors='replace')}")
        if first is None and question.first in seen:
            first = time.perf_counter()
    if first is None:
        raise RequestFailed(f"{question.path}: no word came")
    return first
