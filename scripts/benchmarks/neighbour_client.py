"""Sends the requests of a quiet tenant from its own process: reads a QuietLoad from stdin and prints a QuietScore, as
JSON.

Exit status 1 if a request failed, or if a page did not show the append before it.
"""

import asyncio
import sys
import time
from collections import defaultdict
from statistics import quantiles

import msgspec
import uvloop
from msgspec import Struct

from scripts.benchmarks.requests import APPEND, RequestFailed, request
from scripts.http_connection import Connection

KINDS = ("append", "page of items", "list of conversations")
RATE = 12.0
"""Rounds a second, of all users together. A round has one request of each of KINDS, in this order.

The time of an append counts from the moment when its round was due.
"""


class QuietLoad(Struct, frozen=True, kw_only=True):
    """For each user: the URL with the key, and the path of a conversation."""

    base_urls: list[str]
    paths: list[str]
    seconds: float


class QuietScore(Struct, frozen=True):
    p99_ms: dict[str, float]


async def run(quiet: QuietLoad) -> QuietScore:
    """Raises OSError and RequestFailed."""
    milliseconds: defaultdict[str, list[float]] = defaultdict(list)
    users = len(quiet.base_urls)
    started = time.perf_counter() + 0.1

    async def use(user: int) -> None:
        connection = await Connection.open(quiet.base_urls[user])
        path = quiet.paths[user]
        for number in range(user, round(quiet.seconds * RATE), users):
            due = started + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            appended = await request(connection, "POST", f"{path}/items", APPEND)
            after_append = time.perf_counter()
            page = await request(connection, "GET", f"{path}/items?limit=1")
            after_page = time.perf_counter()
            await request(connection, "GET", "/v1/conversations?limit=20")
            times = (after_append - due, after_page - after_append, time.perf_counter() - after_page)
            if page.json()["first_id"] != appended.json()["last_id"]:
                raise RequestFailed("a page does not show the append before it")
            for kind, seconds in zip(KINDS, times, strict=True):
                milliseconds[kind].append(seconds * 1000)
        connection.close()

    await asyncio.gather(*map(use, range(users)))
    return QuietScore({kind: quantiles(milliseconds[kind], n=100, method="inclusive")[98] for kind in KINDS})


if __name__ == "__main__":
    score = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=QuietLoad)))
    sys.stdout.buffer.write(msgspec.json.encode(score))
