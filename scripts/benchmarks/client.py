"""The client of the measurements over HTTP, in a process of its own: reads a Job from stdin, prints a Score. JSON both.

`connections` kept-alive connections post as fast as they are answered, or together at `rate` requests a second; then the time an
answer takes counts from the moment its request was due, so that a server that stalls cannot hide it.
"""

import asyncio
import sys
import time
from itertools import count
from statistics import quantiles

import msgspec
import uvloop
from msgspec import Struct

from scripts.keepalive import Answer, Connection


class Job(Struct, frozen=True, kw_only=True):
    """`rate` 0: as fast as it goes. What is done in the first `warm_seconds` does not count."""

    base_url: str
    paths: list[str]
    body: str
    connections: int
    seconds: float
    warm_seconds: float = 0.3
    rate: float = 0.0


class Score(Struct, frozen=True):
    """What was answered with success, a second, and how long it took."""

    per_second: float
    p50_ms: float
    p99_ms: float


class NotAnswered(Exception):
    """A request failed: there is nothing to measure."""


async def post(connection: Connection, path: str, body: bytes) -> Answer:
    """The answer to a request that must succeed. Raises NotAnswered."""
    answer = await connection.request("POST", path, body)
    if answer.status != 200:
        raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
    return answer


async def run(job: Job) -> Score:
    """Raises NotAnswered."""
    body = job.body.encode()
    numbers = count()
    milliseconds: list[float] = []
    opened = await asyncio.gather(*(Connection.open(job.base_url) for _ in range(job.connections)))
    # The clock starts when every connection has been answered once: a server may only just be starting.
    await asyncio.gather(*(post(connection, job.paths[0], body) for connection in opened))
    begin = time.perf_counter()
    counts_from = begin + job.warm_seconds
    end = counts_from + job.seconds

    async def repeat(connection: Connection) -> None:
        while True:
            number = next(numbers)
            due = time.perf_counter()
            if job.rate:
                due = begin + number / job.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if due >= end:
                break
            await post(connection, job.paths[number % len(job.paths)], body)
            done = time.perf_counter()
            if counts_from <= due and (job.rate or done <= end):
                milliseconds.append((done - due) * 1000)
        connection.close()

    await asyncio.gather(*map(repeat, opened))
    if len(milliseconds) < 2:
        raise NotAnswered("hardly anything was answered in time")
    cuts = quantiles(milliseconds, n=100, method="inclusive")
    return Score(len(milliseconds) / job.seconds, cuts[49], cuts[98])


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(job))))


if __name__ == "__main__":
    main()
