"""How soon the first word of a reply arrives while many conversations stream.

Sending a long transcript takes time as well. So a relay, which only passes requests and answers on, is also measured.
"""

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
from scripts.benchmarks.chat_client import Added, added_by_chats
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer, floor_server
from scripts.benchmarks.requests import RequestFailed, start_conversations

FLOOR_P50, FLOOR_P99 = "the provider itself, p50", "the provider itself, p99"
ADDED_BY_RESPONSE, ADDED_BY_SHORT_CHAT = "added by a Response", "added by a chat completion of 10 messages"
ADDED_TO_RELAY_BY_SHORT_CHAT = "that of 10 messages"
SHORT, LONG = 10, 1_000
"""How many messages a transcript has."""

CHAT_SHARE = 5
"""There is one chat client for this many streams, because its first request stores a whole transcript."""

SOCKET_P50, SOCKET_P99 = "over a WebSocket, p50", "over a WebSocket, p99"


class Question(Struct, frozen=True):
    """A request for a reply. `first` comes with the first word of the answer, and `end` comes at the end of the answer."""

    url: str
    body: dict[str, Any]
    first: bytes
    end: bytes


class Stream(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._questions: dict[BenchStore, list[Question]] = {}
        self._added_by_short_chat = Added(0.0, 0.0)

    def prepare(self, store: BenchStore) -> None:
        conversation_ids = uvloop.run(start_conversations(store.base_url, self.sizes.streams))
        self._questions[store] = [
            Question(
                f"{store.base_url}/v1/responses",
                {"conversation": conversation_id, "input": "Go on.", "stream": True, "model": "even"},
                b"response.output_text.delta",
                b"event: response.completed",
            )
            for conversation_id in conversation_ids
        ]
        uvloop.run(
            _first_words(self._questions[store], self.sizes.reply_seconds, 0)
        )  # a warm-up, because the first requests are slower

    def measure(self, store: BenchStore) -> list[Measurement]:
        p50, p99 = uvloop.run(_first_words(self._questions[store], self.sizes.reply_seconds, self.sizes.seconds))
        name = f"first word of a reply, {self.sizes.streams} streams"
        with floor_server("relay", store.env) as relay:
            short, long = (self._added_by_chats(store, relay, messages) for messages in (SHORT, LONG))
        self._added_by_short_chat = short
        chat, beyond = "added to the first word by a chat completion", "beyond the cost of sending them"
        return [
            Measurement(f"{name}, p50", p50, "ms", (FLOOR_P50, SOCKET_P50)),
            Measurement(f"{name}, p99", p99, "ms", (FLOOR_P99, SOCKET_P99)),
            Measurement(f"{chat} of {SHORT} messages", short.after_provider, "ms", (ADDED_BY_RESPONSE,)),
            Measurement(f"{chat} of {LONG:,} messages", long.after_provider, "ms", (ADDED_BY_SHORT_CHAT,)),
            Measurement(
                f"{chat} of {LONG:,} messages, {beyond}", long.after_relay, "ms", (ADDED_TO_RELAY_BY_SHORT_CHAT,)
            ),
        ]

    @property
    def _chat_clients(self) -> int:
        return max(1, self.sizes.streams // CHAT_SHARE)

    def _added_by_chats(self, store: BenchStore, relay: FloorServer, messages: int) -> Added:
        return uvloop.run(
            added_by_chats(
                store.base_url,
                store.env["OPENAI_BASE_URL"],
                relay.url,
                messages=messages,
                clients=self._chat_clients,
                reply_seconds=self.sizes.reply_seconds,
                seconds=self.sizes.seconds,
            )
        )

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - the provider is the floor
        socket_p50, socket_p99 = uvloop.run(
            _first_words(self._questions[store], self.sizes.reply_seconds, self.sizes.seconds, over_sockets=True)
        )
        body = {"model": "even", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
        question = Question(f"{store.env['OPENAI_BASE_URL']}/chat/completions", body, b'"content":', b"data: [DONE]")
        p50, p99 = uvloop.run(
            _first_words([question] * self.sizes.streams, self.sizes.reply_seconds, self.sizes.seconds)
        )
        seconds = (self.sizes.reply_seconds, self.sizes.seconds)
        few_direct, _ = uvloop.run(_first_words([question] * self._chat_clients, *seconds))
        few_responses, _ = uvloop.run(_first_words(self._questions[store][: self._chat_clients], *seconds))
        return {
            FLOOR_P50: p50,
            FLOOR_P99: p99,
            SOCKET_P50: socket_p50,
            SOCKET_P99: socket_p99,
            ADDED_BY_RESPONSE: few_responses - few_direct,
            ADDED_BY_SHORT_CHAT: self._added_by_short_chat.after_provider,
            ADDED_TO_RELAY_BY_SHORT_CHAT: self._added_by_short_chat.after_relay,
        }


async def _first_words(
    questions: list[Question], reply_seconds: float, seconds: float, *, over_sockets: bool = False
) -> tuple[float, float]:
    """The p50 and p99 of the time until the first word, in milliseconds.

    The first requests are spread over `reply_seconds`. `over_sockets`: each question has a WebSocket of its own.
    """
    started = time.perf_counter()
    end = started + reply_seconds + seconds

    async def repeat(number: int, question: Question) -> list[float]:
        await asyncio.sleep(started + reply_seconds * number / len(questions) - time.perf_counter())
        times = []
        if not over_sockets:
            while time.perf_counter() < end:
                times.append(await _first_word(session, question))
            return times
        async with session.ws_connect(question.url) as socket:
            while time.perf_counter() < end:
                times.append(await _first_word_of_message(socket, question))
        return times

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        times_by_question = await asyncio.gather(
            *(repeat(number, question) for number, question in enumerate(questions))
        )
    cuts = quantiles([ms for times in times_by_question for ms in times], n=100, method="inclusive")
    return cuts[49], cuts[98]


async def _first_word(session: aiohttp.ClientSession, question: Question) -> float:
    """Reads the whole answer. Returns the milliseconds until the first word. Raises RequestFailed."""
    started = time.perf_counter()
    first_word_at: float | None = None
    received = b""
    async with session.post(question.url, json=question.body) as answer:
        async for data in answer.content.iter_any():
            received += data
            if first_word_at is None and question.first in received:
                first_word_at = time.perf_counter()
    if first_word_at is None or question.end not in received:
        raise RequestFailed(f"{question.url}: {answer.status} {received[:300].decode(errors='replace')}")
    return (first_word_at - started) * 1000


async def _first_word_of_message(socket: aiohttp.ClientWebSocketResponse, question: Question) -> float:
    started = time.perf_counter()
    first_word_at: float | None = None
    body = {name: value for name, value in question.body.items() if name != "stream"}
    await socket.send_json({"type": "response.create", **body})
    while True:
        event = await socket.receive_json()
        if first_word_at is None and event["type"].encode() == question.first:
            first_word_at = time.perf_counter()
        if event["type"] == "response.completed" and first_word_at is not None:
            return (first_word_at - started) * 1000
        if event["type"] in ("error", "response.failed"):
            raise RequestFailed(f"{question.url}: {event}")
