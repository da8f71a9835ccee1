"""Clients request the largest pages and streams, and do not read the answers. Memory stays bounded, and other clients are served.

scripts/test tests/end_to_end/test_clients_that_do_not_read.py -m endless    500 clients, and a limit for the p99 of another client
"""

import asyncio
import base64
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import psutil
import pytest

from scripts.http_connection import Connection
from tests.system import System

ITEMS = 12
ITEM_BYTES = 900_000
MAX_MEMORY_BYTES = 400_000_000
REQUESTS = ("items?limit=100", "items?limit=100&order=asc", "events?limit=1000", "stream")


@pytest.mark.parametrize(
    ("connections", "seconds", "compares"),
    [
        pytest.param(40, 5.0, False, id="40 connections"),
        pytest.param(500, 60.0, True, id="500 connections", marks=pytest.mark.endless),
    ],
)
async def test_memory_is_bounded_and_another_client_is_served(
    system: Callable[..., System], empty_stores: dict[str, str], connections: int, seconds: float, *, compares: bool
) -> None:
    store = system("--no-model", environment=empty_stores)
    large, small = await start_conversations(store)
    before = await latencies(store, small, seconds / 2)
    memory = [psutil.Process(store.pid("api")).memory_info().rss]
    with ExitStack() as clients:
        for number in range(connections):
            encoding = "gzip" if number % 8 < 4 else "identity"
            clients.enter_context(silent_client(store.port, large, REQUESTS[number % len(REQUESTS)], encoding))
        async with sampled(memory, store.pid("api")):
            during = await latencies(store, small, seconds)
    figures = (
        f"p99 {p99(before):.4f} s before, {p99(during):.4f} s during; memory {memory[0]} before, {max(memory)} at most"
    )
    print(figures)  # noqa: T201 - for the person who runs 500 clients
    assert max(memory) < MAX_MEMORY_BYTES, figures
    if compares:
        assert p99(during) <= 3 * p99(before), figures


async def start_conversations(store: System) -> tuple[str, str]:
    connection = await Connection.open(store.base_url)
    ids = []
    for count, size in ((ITEMS, ITEM_BYTES), (1, 100)):
        answer = await connection.request("POST", "/v1/conversations", b"{}")
        ids.append(answer.json()["id"])
        text = base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()  # this text compresses badly
        item = {"role": "user", "content": text}
        for _ in range(count):
            path = f"/v1/conversations/{ids[-1]}/items"
            answer = await connection.request("POST", path, json.dumps({"items": [item]}).encode())
            assert answer.status == 200, answer.body
    for conversation_id in ids:
        async with asyncio.timeout(30):
            path = f"/v1/conversations/{conversation_id}/items?limit=1"
            while (await connection.request("GET", path)).status != 200:  # noqa: ASYNC110 - the projector makes it true
                await asyncio.sleep(0.05)
    connection.close()
    return ids[0], ids[1]


def silent_client(port: int, conversation_id: str, request: str, encoding: str) -> socket.socket:
    """Sends a request. Nobody reads the answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    accept = "text/event-stream" if request == "stream" else "*/*"
    path = f"/v1/conversations/{conversation_id}/{'events' if request == 'stream' else request}"
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n\r\n"
    client.sendall(head.encode())
    return client


async def latencies(store: System, conversation_id: str, seconds: float) -> list[float]:
    """Reads for `seconds`. Returns how long each read took, in seconds."""
    connection = await Connection.open(store.base_url)
    taken: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started_at = time.perf_counter()
        answer = await connection.request("GET", f"/v1/conversations/{conversation_id}/items")
        taken.append(time.perf_counter() - started_at)
        assert answer.status == 200, answer.body
    connection.close()
    return taken


def p99(taken: list[float]) -> float:
    return sorted(taken)[len(taken) * 99 // 100]


@asynccontextmanager
async def sampled(memory: list[int], pid: int) -> AsyncIterator[None]:
    """Appends the memory of the process, in bytes, every 50 ms."""

    async def sample() -> None:
        while True:
            memory.append(psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(0.05)

    sampling = asyncio.create_task(sample())
    try:
        yield
    finally:
        sampling.cancel()
