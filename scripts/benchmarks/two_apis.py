"""APPENDS appends at once to one conversation, beside as many to as many: two api processes, over HTTP, on a store of their own.

A figure is the milliseconds until the last one is answered. Every append has a connection of its own that is open before
the clock starts; half of them lead to either process.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from scripts.benchmarks.client import NotAnswered, post
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import BODY, CONVERSATIONS, begin_conversations
from scripts.keepalive import Answer, Connection

APPENDS = CONVERSATIONS
FLOOR = f"{APPENDS:,} appends to {APPENDS:,} conversations, two api processes"
ONE = f"{APPENDS:,} appends to one conversation, two api processes"

_NONE: Mapping[str, str] = MappingProxyType({})


class AtOnce(Struct, frozen=True):
    """The answers, in the order of the requests, and the seconds until the last of them."""

    answers: list[Answer]
    seconds: float


async def at_once(
    urls: Sequence[str], requests: Sequence[tuple[str, bytes]], headers: Mapping[str, str] = _NONE
) -> AtOnce:
    """Posts every (path, body) at the same time, by turns to `urls`. Raises OSError."""
    opened = await asyncio.gather(*(Connection.open(urls[n % len(urls)]) for n in range(len(requests))))
    try:
        await asyncio.gather(
            *(connection.request("GET", "/health/live") for connection in opened)
        )  # it is accepted now
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(
                connection.request("POST", path, body, headers)
                for connection, (path, body) in zip(opened, requests, strict=True)
            )
        )
        return AtOnce(answers, time.perf_counter() - began)
    finally:
        for connection in opened:
            connection.close()


class TwoApis:
    """The api processes of one store, at `urls`. `prepare` once; `run` adds one run to the board."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._many: list[str] = []
        self._one = ""

    async def prepare(self) -> None:
        """Begins the conversations, and appends once to each as it will be measured: both processes have seen them."""
        self._many = await begin_conversations(self._urls[0])
        connection = await Connection.open(self._urls[0])
        self._one = (await post(connection, "/v1/conversations", b"{}")).json()["id"]
        connection.close()
        for idents in (self._many, self._all_to_one):
            await self._milliseconds(idents)

    async def run(self, board: Board) -> None:
        board.add(FLOOR, await self._milliseconds(self._many), unit="ms")
        board.add(ONE, await self._milliseconds(self._all_to_one), unit="ms", floor=FLOOR)

    @property
    def _all_to_one(self) -> list[str]:
        return [self._one] * APPENDS

    async def _milliseconds(self, idents: Sequence[str]) -> float:
        """How long an append to each of these takes, once the views show what went before. Raises NotAnswered."""
        await self._until_shown()
        done = await at_once(self._urls, [(f"/v1/conversations/{ident}/items", BODY.encode()) for ident in idents])
        for answer in done.answers:
            if answer.status != 200:
                raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
        return done.seconds * 1000

    async def _until_shown(self) -> None:
        """Returns when the views have come to the log's end: a list is 503 as long as it can not be made current."""
        connection = await Connection.open(self._urls[0])
        async with asyncio.timeout(60):
            while (await connection.request("GET", "/v1/conversations?limit=1")).status == 503:
                continue
        connection.close()
