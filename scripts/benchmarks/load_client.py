"""A load of appends, made by a process of its own: it reads a Load from stdin and prints a Score. JSON both.

`connections` kept-alive connections post as fast as they are answered, or together at `rate` requests a second. At a rate, the time an
answer takes counts from the moment its request was due, so that a server that stalls cannot hide it.
"""

import asyncio
import os
import subprocess
import sys
import time
from itertools import count
from statistics import quantiles

import msgspec
import uvloop
from msgspec import Struct

from scripts.benchmarks import ROOT
from scripts.benchmarks.requests import APPEND, RequestFailed, request
from scripts.http_connection import Connection


class Load(Struct, frozen=True, kw_only=True):
    """`rate` 0: as fast as it goes. What is done in the first `warm_seconds` does not count."""

    base_url: str
    paths: list[str]
    connections: int
    seconds: float
    warm_seconds: float = 0.3
    rate: float = 0.0


class Score(Struct, frozen=True):
    """What was answered with success, a second, and how long it took."""

    per_second: float
    p50_ms: float
    p99_ms: float


def put_under(load: Load) -> Score:
    """Has another process make the load. Raises subprocess.CalledProcessError."""
    done = subprocess.run(
        (sys.executable, "-P", "-m", "scripts.benchmarks.load_client"),
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return msgspec.json.decode(done.stdout, type=Score)


async def run(load: Load) -> Score:
    """Raises RequestFailed."""
    numbers = count()
    milliseconds: list[float] = []
    opened = await asyncio.gather(*(Connection.open(load.base_url) for _ in range(load.connections)))
    # The clock starts when every connection has been answered once: a server may only just be starting.
    await asyncio.gather(*(request(connection, "POST", load.paths[0], APPEND) for connection in opened))
    begin = time.perf_counter()
    counts_from = begin + load.warm_seconds
    end = counts_from + load.seconds

    async def repeat(connection: Connection) -> None:
        while True:
            number = next(numbers)
            due = time.perf_counter()
            if load.rate:
                due = begin + number / load.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if due >= end:
                break
            await request(connection, "POST", load.paths[number % len(load.paths)], APPEND)
            done = time.perf_counter()
            if counts_from <= due and (load.rate or done <= end):
                milliseconds.append((done - due) * 1000)
        connection.close()

    await asyncio.gather(*map(repeat, opened))
    if len(milliseconds) < 2:
        raise RequestFailed("hardly anything was answered in time")
    cuts = quantiles(milliseconds, n=100, method="inclusive")
    return Score(len(milliseconds) / load.seconds, cuts[49], cuts[98])


if __name__ == "__main__":
    score = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))
    sys.stdout.buffer.write(msgspec.json.encode(score))
