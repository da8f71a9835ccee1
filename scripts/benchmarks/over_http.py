"""Appends over HTTP beside the floor: how many a second at 1 and 32 connections, and how long they take at half of that."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import msgspec

from scripts.benchmarks.client import Job, NotAnswered, Score, post
from scripts.benchmarks.figures import Board
from scripts.benchmarks.site import child_environment
from scripts.keepalive import Connection

CONVERSATIONS = 1_000
BEGINNERS = 20
MANY = 32
_CAUGHT_UP_SECONDS = 600.0
TEXT = "A message of eighty characters, which is about what people write to one another."
BODY = msgspec.json.encode({"items": [{"type": "message", "role": "user", "content": TEXT}]}).decode()


async def begin_conversations(base_url: str, count: int = CONVERSATIONS) -> list[str]:
    """Starts empty conversations, a multiple of BEGINNERS, and returns their ids."""

    async def some() -> list[str]:
        connection = await Connection.open(base_url)
        answers = [await post(connection, "/v1/conversations", b"{}") for _ in range(count // BEGINNERS)]
        connection.close()
        return [answer.json()["id"] for answer in answers]

    return [ident for part in await asyncio.gather(*(some() for _ in range(BEGINNERS))) for ident in part]


async def delete_conversations(base_url: str, idents: list[str]) -> None:
    """Deletes them again: their events stay, as events do."""

    async def some(part: list[str]) -> None:
        connection = await Connection.open(base_url)
        for ident in part:
            await connection.request("DELETE", f"/v1/conversations/{ident}")
        connection.close()

    await asyncio.gather(*(some(idents[number::BEGINNERS]) for number in range(BEGINNERS)))


def measured(job: Job) -> Score:
    """Has a client do the job, in a process of its own. Raises subprocess.CalledProcessError."""
    done = subprocess.run(
        (sys.executable, "-P", "-m", "scripts.benchmarks.client"),
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
        env=child_environment(),
    )
    return msgspec.json.decode(done.stdout, type=Score)


async def caught_up(base_url: str) -> None:
    """Waits until all views show all there is: what is measured next has the machine to itself. Raises NotAnswered."""
    connection = await Connection.open(base_url)
    try:
        async with asyncio.timeout(_CAUGHT_UP_SECONDS):
            while any(it["position"] < it["head"] for it in await _projections(connection)):  # noqa: ASYNC110 - others do it
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise NotAnswered("the projector does not catch up") from error
    finally:
        connection.close()


async def _projections(connection: Connection) -> Any:
    answer = await connection.request("GET", "/v1/projections")
    if answer.status != 200:
        raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
    return answer.json()["data"]


class OverHttp:
    """One store and one floor. `run` adds one run of everything to the board."""

    def __init__(self, base_url: str, noop_url: str, idents: list[str], data: Path, seconds: float) -> None:
        self._base_url = base_url
        self._noop_url = noop_url
        self._paths = [f"/v1/conversations/{ident}/items" for ident in idents]
        self._data = data
        self._seconds = seconds

    def run(self, board: Board) -> None:
        """Floor and store by turns, so that both see the same machine."""
        for connections in (1, MANY):
            floor, name = f"no-op, {_connections(connections)}", f"HTTP append, {_connections(connections)}"
            self._score(board, floor, self._noop_url, connections)
            appends = self._score(board, name, self._base_url, connections, floor=floor)
        half = appends.per_second / 2
        self._score(board, f"{name}, half load", self._base_url, MANY, rate=half)
        with self._projector_paused():  # the last, for it leaves the projector far behind
            self._score(board, f"{name}, projector paused", self._base_url, MANY, floor=floor)
        asyncio.run(caught_up(self._base_url))

    def _score(
        self, board: Board, name: str, url: str, connections: int, *, floor: str | None = None, rate: float = 0.0
    ) -> Score:
        job = Job(base_url=url, paths=self._paths, body=BODY, connections=connections, seconds=self._seconds, rate=rate)
        score = measured(job)
        board.add(name, score.per_second, floor=floor, p50_ms=score.p50_ms, p99_ms=score.p99_ms)
        return score

    @contextmanager
    def _projector_paused(self) -> Iterator[None]:
        """What appends cost without the projector, which shares this machine's cores and disk."""
        pids = [int(file.read_text()) for file in (self._data / "run").glob("projector*.pid")]
        for pid in pids:
            os.kill(pid, SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, SIGCONT)


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"
