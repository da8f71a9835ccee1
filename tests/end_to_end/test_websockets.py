"""WebSockets in the whole system.

scripts/test tests/end_to_end/test_websockets.py -m endless    200 chains, and the time to the first word over WebSocket and HTTP
"""

import asyncio
import json
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest
from msgspec import Struct
from websockets.asyncio.client import connect

from tests.scripted_provider import Exchange, ScriptedProvider
from tests.system import System

UP = ("--no-model",)
WITH_PROVIDER = True
TURNS = 5
WORDS = [f"word{number} " for number in range(12)]
SOCKETS = 1_000
MAX_BYTES_EACH = 100_000
HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Chain(Struct):
    """One client's chain of responses. The next turn continues from `previous`."""

    number: int
    random: random.Random
    questions: list[str]
    previous: str | None = None


def slowly(exchange: Exchange) -> None:
    exchange.begin_stream()
    for word in WORDS:
        exchange.text_chunk(word)
        time.sleep(0.002)
    exchange.text_chunk(finish_reason="stop")
    exchange.end_stream()


@pytest.mark.parametrize(("chains", "at_once"), [pytest.param(12, 6), pytest.param(200, 10, marks=pytest.mark.endless)])
async def test_streams_that_are_cut_and_resumed_have_no_gap_and_no_repeat(
    running: System, provider: ScriptedProvider, http: httpx.AsyncClient, chains: int, at_once: int
) -> None:
    provider.script = slowly
    turns = asyncio.Semaphore(at_once)

    async def run(chain: Chain) -> Chain:
        async with turns:
            for _ in range(TURNS):
                await take_turn(running, http, chain)
        return chain

    for chain in await asyncio.gather(*(run(Chain(number, random.Random(number), [])) for number in range(chains))):
        # Each question is once in the last request to the model, and once in the conversation.
        own = [request for request in provider.requests if chain.questions[-1] in json.dumps(request)]
        assert asked_in(own[-1]["messages"]) == chain.questions
        response = (await http.get(f"{running.base_url}/v1/responses/{chain.previous}")).json()
        path = f"/v1/conversations/{response['conversation']['id']}/items?limit=100&order=asc"
        items = (await http.get(running.base_url + path)).json()["data"]
        assert asked_in(items) == chain.questions
        assert len({item["id"] for item in items}) == len(items)


def asked_in(messages: list[dict[str, Any]]) -> list[str]:
    texts = [message["content"] for message in messages if message.get("role") == "user"]
    return [text if isinstance(text, str) else text[0]["text"] for text in texts]


async def take_turn(running: System, http: httpx.AsyncClient, chain: Chain) -> None:
    """Asks the next question. At random, cuts the stream and reads the rest over HTTP."""
    chain.questions.append(f"chain {chain.number}, question {len(chain.questions)}")
    request: dict[str, Any] = {"input": chain.questions[-1], "previous_response_id": chain.previous}
    cut_after = chain.random.choice([None, 1, 2, 3, chain.random.randrange(4, 16)])
    is_last = len(chain.questions) == TURNS
    # With an idempotency key, a reply continues after its client has left. Otherwise the reply stops.
    keeps_running = is_last or chain.random.random() < 0.5
    headers = {"Idempotency-Key": f"{chain.number}-{len(chain.questions)}"} if keeps_running else {}
    ask = over_websocket if chain.random.random() < 0.5 else over_http
    events: list[dict[str, Any]] = []
    async for event in ask(running, http, request, headers):
        events.append(event)
        if len(events) == cut_after:
            break
    chain.previous = events[0]["response"]["id"]
    if cut_after is not None and len(events) == cut_after:
        url = f"{running.base_url}/v1/responses/{chain.previous}?stream=true&starting_after={events[-1]['sequence_number']}"
        async with http.stream("GET", url) as answer:
            events += [event async for event in events_of(answer)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed" or not keeps_running
    streamed = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    recorded = "".join(part["text"] for item in events[-1]["response"]["output"] for part in item["content"])
    assert streamed == recorded
    if keeps_running:
        assert streamed == "".join(WORDS)


async def over_websocket(
    running: System, _: httpx.AsyncClient, request: dict[str, Any], headers: dict[str, str]
) -> AsyncIterator[dict[str, Any]]:
    client = await connect(f"ws://127.0.0.1:{running.port}/v1/responses", additional_headers=headers, max_size=None)
    try:
        await client.send(json.dumps({"type": "response.create", **request}))
        while True:
            event = json.loads(await client.recv())
            assert event["type"] != "error", event
            yield event
            if event["type"] in ("response.completed", "response.incomplete", "response.failed"):
                return
    finally:
        client.transport.abort()


async def over_http(
    running: System, http: httpx.AsyncClient, request: dict[str, Any], headers: dict[str, str]
) -> AsyncIterator[dict[str, Any]]:
    body = {**request, "stream": True}
    async with http.stream("POST", f"{running.base_url}/v1/responses", json=body, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for event in events_of(answer):
            yield event


async def events_of(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


@pytest.mark.endless
async def test_the_first_word_comes_as_soon_over_a_websocket_as_over_http(
    running: System, provider: ScriptedProvider, http: httpx.AsyncClient
) -> None:
    provider.script = slowly
    seconds: dict[str, list[float]] = {"websocket": [], "http": []}
    url = f"ws://127.0.0.1:{running.port}/v1/responses"
    async with connect(url, max_size=None) as client:
        for number in range(200):
            started = time.perf_counter()
            await client.send(json.dumps({"type": "response.create", "input": f"question {number}"}))
            seconds["websocket"].append(await first_word(client_events(client), started))
            started = time.perf_counter()
            seconds["http"].append(
                await first_word(over_http(running, http, {"input": f"other {number}"}, {}), started)
            )
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    assert medians["websocket"] <= medians["http"], medians


async def client_events(client: Any) -> AsyncIterator[dict[str, Any]]:
    while True:
        event = json.loads(await client.recv())
        yield event
        if event["type"] == "response.completed":
            return


async def first_word(events: AsyncIterator[dict[str, Any]], started: float) -> float:
    taken = 0.0
    async for event in events:
        if not taken and event["type"] == "response.output_text.delta":
            taken = time.perf_counter() - started
    return taken


async def test_a_thousand_idle_sockets_take_little_memory_and_delay_no_reply(
    running: System, http: httpx.AsyncClient
) -> None:
    process = psutil.Process(running.pid("api"))
    before = process.memory_info().rss
    clients = [await asyncio.to_thread(open_socket, running.port) for _ in range(SOCKETS)]
    each = (process.memory_info().rss - before) / SOCKETS
    started = time.perf_counter()
    answer = await http.post(f"{running.base_url}/v1/responses", json={"input": "hi"})
    taken = time.perf_counter() - started
    for client in clients:
        client.close()
    figures = f"{each / 1000:.0f} KB for each idle socket; a reply beside them took {taken:.3f} s"
    assert answer.json()["status"] == "completed"
    assert (taken < 2, each < MAX_BYTES_EACH) == (True, True), figures


def open_socket(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(HANDSHAKE)
    assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
    return client
