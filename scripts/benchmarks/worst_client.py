"""Sends the heaviest load that a tenant can, until SIGTERM. Reads a WorstLoad from stdin, and prints `ready` when the
load runs.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

from infrastructure.ids import mint
from scripts.benchmarks.requests import APPEND
from scripts.http_connection import Connection

RATE = 150.0
"""Requests a second, besides followers and replies: three times the recommended limit of a tenant."""

SENDERS = 48
FOLLOWERS = 2_000
REPLIES = 500
LARGE_ITEMS = 100
FOLLOWING_SECONDS = 2.0
MEGABYTE = "".join(map(chr, random.choices(range(0x1F300, 0x1F600), k=250_000)))  # noqa: S311
"""A text that does not compress well."""

LARGE_ITEM = msgspec.json.encode({"items": [{"type": "message", "role": "user", "content": MEGABYTE}]})
LARGE_INSTRUCTIONS = msgspec.json.encode({"instructions": MEGABYTE})
REPLY = msgspec.json.encode({"input": "Go on.", "background": True})


class WorstLoad(Struct, frozen=True):
    """For each user: the URL with the key."""

    base_urls: list[str]


class Client:
    """If the connection is lost, the next request opens it again."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._connection: Connection | None = None

    async def send(self, method: str, path: str, body: bytes = b"") -> bytes | None:
        """None if the status was not 200, or the connection failed."""
        try:
            if self._connection is None or not self._connection.is_open:
                self._connection = await Connection.open(self._base_url)
            answer = await self._connection.request(method, path, body)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    async def new_conversation(self) -> str:
        while (body := await self.send("POST", "/v1/conversations", b"{}")) is None:  # noqa: ASYNC110 - the limits may refuse it
            await asyncio.sleep(1)
        return f"/v1/conversations/{msgspec.json.decode(body)['id']}"


async def run(worst: WorstLoad) -> None:
    users = [Client(url) for url in worst.base_urls]
    large, ended, other = [await user.new_conversation() for user in users[:3]]
    for _ in range(LARGE_ITEMS):
        await users[0].send("POST", f"{large}/items", LARGE_ITEM)
    await users[1].send("POST", f"{ended}/end", b"{}")
    while await users[0].send("GET", f"{large}/items?limit=1") is None:  # noqa: ASYNC110 - until the views have all of it
        await asyncio.sleep(1)
    holding = [asyncio.create_task(_follow(worst.base_urls, other)), asyncio.create_task(_ask(users))]
    await asyncio.sleep(FOLLOWING_SECONDS)
    print("ready", flush=True)
    await asyncio.gather(_send(worst.base_urls, large, ended, other), *holding)


async def _send(base_urls: Sequence[str], large: str, ended: str, other: str) -> None:
    free: asyncio.Queue[Client] = asyncio.Queue()
    for number in range(SENDERS):
        free.put_nowait(Client(base_urls[number % len(base_urls)]))
    tasks: set[asyncio.Task[None]] = set()

    async def send(client: Client, method: str, path: str, body: bytes) -> None:
        await client.send(method, path, body)
        free.put_nowait(client)

    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in count():
        await asyncio.sleep(max(0.0, started + number / RATE - loop.time()))
        requests = (
            ("GET", f"/v1/conversations/{mint('conv')}", b""),
            ("POST", f"/v1/conversations/{mint('conv')}/items", APPEND),
            ("POST", f"{ended}/items", APPEND),
            ("DELETE", f"{other}/items/{mint('msg')}", b""),
            ("GET", f"{large}/items?limit=100", b""),
            ("POST", "/v1/conversations", LARGE_INSTRUCTIONS),
        )
        task = asyncio.create_task(send(await free.get(), *requests[number % len(requests)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _follow(base_urls: Sequence[str], path: str) -> None:
    """The followers never read."""
    writers: list[asyncio.StreamWriter] = []
    for number in range(FOLLOWERS):
        url = urlsplit(base_urls[number % len(base_urls)])
        with suppress(OSError):
            _, writer = await asyncio.open_connection(url.hostname, url.port)
            head = f"GET {path}/events HTTP/1.1\r\nhost: {url.hostname}\r\nauthorization: Bearer {url.username}\r\n"
            writer.write(f"{head}accept: text/event-stream\r\n\r\n".encode())
            writers.append(writer)
    await asyncio.Event().wait()


async def _ask(users: Sequence[Client]) -> None:
    for _ in range(0, REPLIES, len(users)):
        await asyncio.gather(*(user.send("POST", "/v1/responses", REPLY) for user in users))


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=WorstLoad)))
