"""What an api process takes in memory: with many active conversations, then with a few that are very long.

The megabytes (PSS) are those after the conversations were used; the peak is of its resident memory (RSS) until then, from
Linux' `/proc/PID/status`: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from infrastructure.http.body import MAX_BATCH_BYTES
from scripts.benchmarks import site
from scripts.benchmarks.client import NotAnswered, post
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import BODY, MANY, TEXT
from scripts.keepalive import Answer, Connection

BOUND = "an api process' memory, at most"
BOUND_MB = 300.0
CONVERSATIONS = 10_000
FEW = 10
FEW_CONNECTIONS = 8
MANY_ROUNDS = 3
FEW_ROUNDS = 5

_READS = (  # {0}: the first item, {1}: the last
    "",
    "/items",
    "/items?limit=100&order=asc",
    "/items?limit=100&order=desc",
    "/items?limit=100&order=asc&after={0}",
    "/items?limit=100&order=asc&before={1}",
    "/items/{0}",
    "/context?model=gpt-4o",
)
_AROUND_TEXT = 32
_IMPORT_SECONDS = 120.0
_BEHIND_SECONDS = 600.0

Call = Callable[[Connection], Awaitable[Answer]]


class Memory:
    """The one api process of the store in `data`. `run` adds everything to the board, once."""

    def __init__(self, data: Path, conversations: int, items: int) -> None:
        self._data = data
        [self._base_url] = site.api_urls(data)
        self._status = Path("/proc", (data / "run" / "api.pid").read_text().strip(), "status")
        self._conversations = conversations
        self._items = items

    async def run(self, board: Board) -> None:
        """Raises NotAnswered and OSError."""
        board.add(BOUND, BOUND_MB, unit="MB")
        await self._use_many()
        self._add(board, f"api process, {self._conversations:,} active conversations")
        await self._use_long()
        self._add(board, f"api process, {FEW} active conversations of {self._items:,} items")

    def _add(self, board: Board, name: str) -> None:
        """What it takes now and took at its peak, which is then forgotten."""
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", self._status.read_text(), re.MULTILINE)
        assert peak is not None
        board.add(name, site.memory(self._data)["api"]["pss"] / 1e6, unit="MB", floor=BOUND)
        board.add(f"{name}, peak", int(peak[1]) * 1024 / 1e6, unit="MB", floor=BOUND)
        self._status.with_name("clear_refs").write_text("5")

    async def _use_many(self) -> None:
        """Starts them, and appends to each in turn, MANY_ROUNDS times."""
        begin = msgspec.json.encode({"title": TEXT, "metadata": {"topic": "memory"}})
        begun = await self._in_turns(MANY, [_posting("/v1/conversations", begin)] * self._conversations)
        idents = [answer.json()["id"] for answer in begun]
        appends = [_posting(f"/v1/conversations/{ident}/items", BODY.encode()) for ident in idents]
        await self._in_turns(MANY, appends * MANY_ROUNDS)

    async def _use_long(self) -> None:
        """Imports them one by one; then appends to each and reads all that can be read of it, by turns, FEW_ROUNDS times."""
        await self._in_turns(1, [_importing(_line(self._items))] * FEW)
        [page] = await self._in_turns(1, [_reading(f"/v1/conversations?limit={FEW}")])
        paths = [f"/v1/conversations/{conversation['id']}" for conversation in page.json()["data"]]
        oldest = await self._in_turns(1, [_reading(f"{path}/items?limit=1&order=asc") for path in paths])
        newest = await self._in_turns(1, [_reading(f"{path}/items?limit=1&order=desc") for path in paths])
        ends = [(first.json()["first_id"], last.json()["last_id"]) for first, last in zip(oldest, newest, strict=True)]
        calls = [_posting(f"{path}/items", BODY.encode()) for path in paths]
        for read in _READS:
            calls += [_reading(path + read.format(*each)) for path, each in zip(paths, ends, strict=True)]
        await self._in_turns(FEW_CONNECTIONS, calls * FEW_ROUNDS)

    async def _in_turns(self, connections: int, calls: Sequence[Call]) -> list[Answer]:
        """The answers to the calls, in their order where there is one connection; each takes the next when it is answered."""
        todo = iter(calls)
        done: list[Answer] = []

        async def some() -> None:
            connection = await Connection.open(self._base_url)
            answers = [await call(connection) for call in todo]
            done.extend(answers)
            connection.close()

        await asyncio.gather(*(some() for _ in range(connections)))
        return done


def _posting(path: str, body: bytes) -> Call:
    return lambda connection: post(connection, path, body)


def _importing(line: bytes) -> Call:
    async def call(connection: Connection) -> Answer:
        answer = await connection.request("POST", "/v1/import", line, seconds=_IMPORT_SECONDS)
        if answer.status != 200 or answer.json()["failed"]:
            raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
        return answer

    return call


def _reading(path: str) -> Call:
    async def call(connection: Connection) -> Answer:
        """Again while the views are behind: a read that can not be made current is a 503, after two seconds."""
        patience = time.monotonic() + _BEHIND_SECONDS
        while (answer := await connection.request("GET", path)).status == 503 and time.monotonic() < patience:
            continue
        if answer.status != 200:
            raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
        return answer

    return call


def _line(items: int) -> bytes:
    """A conversation as a line of an import; its texts are as long as the line has room for, and no longer than others."""
    item = {"role": "user", "content": TEXT[: max(1, MAX_BATCH_BYTES // items - _AROUND_TEXT)]}
    return msgspec.json.encode({"items": [item] * items})
