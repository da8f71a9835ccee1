"""Sends a load of appends from its own process: reads a Load from stdin and prints a Score, both as JSON.

With a rate, a request's time counts from the moment when it was due, so a stall of the server is measured too.
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
    """The load to send. `rate`: requests a second; 0: as fast as possible. The first `warm_seconds` do not count."""

    base_url: str
    paths: list[str]
    connections: int
    seconds: float
    warm_seconds: float = 0.3
    rate: float = 0.0


class Score(Struct, frozen=True):
    per_second: float
    p50_ms: float
    p99_ms: float


def send_load(load: Load) -> Score:
    """Sends the load from another process. Raises subprocess.CalledProcessError."""
    finished = subprocess.run(
        (sys.executable, "-P", "-m", "scripts.benchmarks.load_client"),
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return msgspec.json.decode(finished.stdout, type=Score)


async def run(load: Load) -> Score:
    """Raises OSError and RequestFailed."""
    numbers = count()
    milliseconds: list[float] = []
    connections = await asyncio.gather(*(Connection.open(load.base_url) for _ in range(load.connections)))
    # The clock starts when every connection has been answered once, because the server may still be starting.
    await asyncio.gather(*(request(connection, "POST", load.paths[0], APPEND) for connection in connections))
    started = time.perf_counter()
    counts_from = started + load.warm_seconds
    end = counts_from + load.seconds

    async def repeat(connection: Connection) -> None:
        while True:
            number = next(numbers)
            due = time.perf_counter()
            if load.rate:
                due = started + number / load.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if due >= end:
                break
            await request(connection, "POST", load.paths[number % len(load.paths)], APPEND)
            answered = time.perf_counter()
            if counts_from <= due and (load.rate or answered <= end):
                milliseconds.append((answered - due) * 1000)
        connection.close()

    await asyncio.gather(*map(repeat, connections))
    if len(milliseconds) < 2:
        raise RequestFailed(f"{load.base_url} answered only {len(milliseconds)} requests in {load.seconds} s")
    cuts = quantiles(milliseconds, n=100, method="inclusive")
    return Score(len(milliseconds) / load.seconds, cuts[49], cuts[98])


if __name__ == "__main__":
    score = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))
    sys.stdout.buffer.write(msgspec.json.encode(score))
