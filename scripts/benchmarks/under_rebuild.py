"""What users notice of a rebuild: appends and reads at a steady rate, with no rebuild at first, then while all views are rebuilt.

Every append is followed by two reads that must show it: by turns a page of the conversation's items and the conversation, the list of
conversations and the context. A read fails that is not answered with 200; a read is stale that does not show the append, unless it
says that it is unverified: that happens where Postgres takes seconds to answer, and is counted by itself.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any

from msgspec import Struct

from scripts.benchmarks.client import NotAnswered, post
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import BODY, begin_conversations, delete_conversations
from scripts.benchmarks.rebuilding import Rebuilt, rebuilt
from scripts.keepalive import Answer, Connection

APPENDS = 100
"""A second; and READS for each."""

READS = 2
CONVERSATIONS = 80
"""All of them are on the list's first page."""

BOUND = "a swap, at most"
BOUND_MS = 100.0
CALM = f"reads beside {APPENDS} appends/s"
BUSY = f"{CALM}, during a rebuild"

_CONNECTIONS = 64
_AFTER_SECONDS = 1.0
_MAX_TOLD = 5


class Written(Struct, frozen=True):
    """What was appended, and where."""

    conversation_id: str
    item_id: str
    version: int


class Kind(Struct, frozen=True):
    """A read: `{0}` in its path is the conversation; `shows` says whether an answer shows what was written."""

    path: str
    shows: Callable[[Answer, Written], bool]


def _page(answer: Answer, written: Written) -> bool:
    return any(item["id"] == written.item_id for item in answer.json()["data"])


def _listed(answer: Answer, written: Written) -> bool:
    found = [each for each in answer.json()["data"] if each["id"] == written.conversation_id]
    return bool(found) and found[0]["version"] >= written.version


def _version(answer: Answer, written: Written) -> bool:
    body: dict[str, Any] = answer.json()
    return body["version"] >= written.version and _etag(answer) >= written.version


KINDS = (
    (Kind("/v1/conversations/{0}/items?limit=20", _page), Kind("/v1/conversations/{0}", _version)),
    (Kind("/v1/conversations?limit=100", _listed), Kind("/v1/conversations/{0}/context?model=gpt-4o", _version)),
)


class Tally:
    """What became of the reads, the last of which was answered after `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.milliseconds: list[float] = []
        self.failed: list[str] = []
        self.stale: list[str] = []
        self.unverified: list[str] = []

    @property
    def wrong(self) -> dict[str, list[str]]:
        """What was not as it should be, by how it was not."""
        return {"failed": self.failed, "stale": self.stale, "unverified": self.unverified}

    def tell(self) -> None:
        """Says on stderr what went wrong, of the first few."""
        for name, wrong in self.wrong.items():
            for each in wrong[:_MAX_TOLD]:
                print(f"{name}: {each}", file=sys.stderr)


async def run(board: Board, base_url: str, data: Path, seconds: float) -> None:
    """Adds one run to the board. Raises NotAnswered where an append fails, or the rebuild does."""

    async def rebuild() -> Rebuilt:
        done = await rebuilt(data)
        await asyncio.sleep(_AFTER_SECONDS)
        return done

    idents = await begin_conversations(base_url, CONVERSATIONS)
    try:
        calm = await _load(base_url, idents, asyncio.create_task(asyncio.sleep(seconds)))
        rebuilding = asyncio.create_task(rebuild())
        busy = await _load(base_url, idents, rebuilding)
        said = rebuilding.result().said
    finally:
        await delete_conversations(base_url, idents)
    _add(board, CALM, calm)
    _add(board, BUSY, busy, floor=CALM)
    for name, wrong in busy.wrong.items():
        board.add(f"{name} {BUSY}", len(wrong), unit="reads")
    unequal = sum(each["different"] + (each["digest"] != each["other_digest"]) for each in said["compared"])
    board.add("documents and digests that differ after it", unequal, unit="")
    board.add("its filling", said["filling_seconds"], unit="s")
    board.add(BOUND, BOUND_MS, unit="ms")
    board.add("its swap", said["swap_seconds"] * 1000, unit="ms", floor=BOUND)


def _add(board: Board, name: str, tally: Tally, floor: str | None = None) -> None:
    tally.tell()
    if len(tally.milliseconds) < 2:
        raise NotAnswered("hardly anything was answered")
    cuts = quantiles(tally.milliseconds, n=100, method="inclusive")
    board.add(name, len(tally.milliseconds) / tally.seconds, floor=floor, p50_ms=cuts[49], p99_ms=cuts[98])


async def _load(base_url: str, idents: Sequence[str], until: asyncio.Task[Any]) -> Tally:
    """Appends and reads until that is done. Raises NotAnswered and OSError for an append."""
    tally, numbers = Tally(), count()
    opened = await asyncio.gather(*(Connection.open(base_url) for _ in range(_CONNECTIONS)))
    begin = time.perf_counter()

    async def repeat(connection: Connection) -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, begin + number / APPENDS - time.perf_counter()))
            if until.done():
                break
            written = await _append(connection, idents[number % len(idents)])
            for kind in KINDS[number % len(KINDS)]:
                if not connection.is_open:
                    connection = await Connection.open(base_url)
                await _read(connection, kind, written, tally)
                tally.seconds = time.perf_counter() - begin
        connection.close()

    try:
        await asyncio.gather(*map(repeat, opened))
    finally:
        until.cancel()
    return tally


async def _append(connection: Connection, ident: str) -> Written:
    answer = await post(connection, f"/v1/conversations/{ident}/items", BODY.encode())
    return Written(ident, answer.json()["data"][0]["id"], _etag(answer))


async def _read(connection: Connection, kind: Kind, written: Written, tally: Tally) -> None:
    path = kind.path.format(written.conversation_id)
    began = time.perf_counter()
    try:
        answer = await connection.request("GET", path)
    except OSError as error:
        tally.failed.append(f"{path}: {type(error).__name__}")
        return
    tally.milliseconds.append((time.perf_counter() - began) * 1000)
    if answer.status != 200:
        tally.failed.append(f"{path}: {answer.status} {answer.body[:200].decode()}")
    elif "unverified" in answer.headers.get("x-consistency", ""):
        tally.unverified.append(path)
    elif not kind.shows(answer, written):
        tally.stale.append(f"{path}: version {written.version} of {written.conversation_id} is not there")


def _etag(answer: Answer) -> int:
    return int(answer.headers["etag"].strip('"'))
