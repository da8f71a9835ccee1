"""Reads of one long conversation and of a short one over HTTP: pages of items at both ends, and the context beside its floor.

The times are milliseconds of one request at a time, over one connection to either server; what is compared takes turns, so that both
see the same machine.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from context.snapshots import READ, as_fields, key
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.log import EventLog
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from scripts.benchmarks.client import NotAnswered
from scripts.benchmarks.figures import Board
from scripts.benchmarks.flat import started
from scripts.benchmarks.floor_context import FLOOR_KEY
from scripts.benchmarks.over_http import delete_conversations
from scripts.keepalive import Answer, Connection

SHORT = 20
PAGE = 20
MODEL = "any"
"""Of the smallest window: what it is sent of the long conversation comes from the snapshot too."""

LARGE_MODEL = "gpt-4o"
"""Of a window larger than what a snapshot of short items has: the rest is read from the log."""

_SHOWN_SECONDS = 600.0
_FLOOR_KEPT_SECONDS = 3600
_WARM = 5


class Reading:
    """One store and one floor, with a conversation of `long` items beside one of SHORT.

    `prepare` once, `delete` in the end; `run` adds one run to the board.
    """

    def __init__(self, base_url: str, floor_url: str, settings: Settings, long: int, seconds: float) -> None:
        self._url = base_url
        self._settings = settings
        self._floor_url = floor_url
        self._long_items = long
        self._seconds = seconds
        self._long = self._short = ""
        self._ends: dict[str, tuple[str, str]] = {}

    async def prepare(self) -> None:
        """Writes the conversations, waits until the views show them, and gives the floor as much to read. Raises NotAnswered."""
        log = EventLog(self._settings.postgres_url, Metrics())
        log.open()
        try:
            self._short = await started(log, SHORT)
            self._long = await started(log, self._long_items)
        finally:
            await log.close()
        connection = await Connection.open(self._url)
        for order in ("asc", "desc"):
            path = f"/v1/conversations/{self._long}/items"
            oldest_first = "desc" if order == "asc" else "asc"
            near = (await _shown(connection, f"{path}?limit={PAGE}&order={order}")).json()["last_id"]
            far = (await _shown(connection, f"{path}?limit={PAGE + 1}&order={oldest_first}")).json()["last_id"]
            self._ends[order] = near, far
        connection.close()
        for ident, items in ((self._short, SHORT), (self._long, self._long_items)):
            await self._fill_floor(ident, 1 + items)

    async def _fill_floor(self, ident: str, version: int) -> None:
        """Puts what the snapshot takes where the floor reads it, once it is the newest."""
        kept = redis.connect(self._settings)
        try:
            async with asyncio.timeout(_SHOWN_SECONDS):
                while True:
                    packed = await kept.eval(READ, 1, key(DEFAULT.tenant, ident))
                    if as_fields(packed).get("version") == str(version):
                        break
                    await asyncio.sleep(0.1)
            await kept.set(FLOOR_KEY.format(conversation_id=ident), packed, ex=_FLOOR_KEPT_SECONDS)
        except TimeoutError as error:
            raise NotAnswered("there is no snapshot of what was written") from error
        finally:
            await kept.aclose()

    async def run(self, board: Board) -> None:
        """Raises NotAnswered."""
        ours, floor = await Connection.open(self._url), await Connection.open(self._floor_url)
        try:
            for order, (near, far) in self._ends.items():
                path = f"/v1/conversations/{self._long}/items?limit={PAGE}&order={order}"
                first = f"first page of {self._long_items:,} items, {order}"
                pages = {
                    first: (ours, path),
                    f"second page of {self._long_items:,} items, {order}": (ours, f"{path}&after={near}"),
                    f"last page of {self._long_items:,} items, {order}": (ours, f"{path}&after={far}"),
                }
                await self._by_turns(board, pages, first)
            for ident, items in ((self._short, SHORT), (self._long, self._long_items)):
                path = f"/v1/conversations/{ident}/context"
                least = f"one Redis GET and one Postgres look-up, as much as the snapshot of {items:,} items"
                contexts = {
                    least: (floor, path),
                    f"context of {items:,} items": (ours, f"{path}?model={MODEL}"),
                    f"context of {items:,} items, large window": (ours, f"{path}?model={LARGE_MODEL}"),
                }
                await self._by_turns(board, contexts, least)
        finally:
            ours.close()
            floor.close()

    async def delete(self) -> None:
        """Deletes what was written."""
        idents = [ident for ident in (self._short, self._long) if ident]
        await delete_conversations(self._url, idents)
        kept = redis.connect(self._settings)
        for ident in idents:
            await kept.delete(FLOOR_KEY.format(conversation_id=ident))
        await kept.aclose()

    async def _by_turns(self, board: Board, reads: Mapping[str, tuple[Connection, str]], floor: str) -> None:
        """Asks one after the other for as many seconds as there are reads; the first of them is the others' floor."""
        times: dict[str, list[float]] = {name: [] for name in reads}
        for _ in range(_WARM):
            for connection, path in reads.values():
                await _answer(connection, path)
        end = time.perf_counter() + self._seconds * len(reads)
        while time.perf_counter() < end:
            for name, (connection, path) in reads.items():
                began = time.perf_counter()
                await _answer(connection, path)
                times[name].append((time.perf_counter() - began) * 1000)
        for name, taken in times.items():
            cuts = _cuts(taken)
            below = None if name == floor else floor
            board.add(name, median(taken), unit="ms", floor=below, p50_ms=cuts[49], p99_ms=cuts[98])


async def _answer(connection: Connection, path: str) -> Answer:
    answer = await connection.request("GET", path)
    if answer.status != 200:
        raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
    return answer


async def _shown(connection: Connection, path: str) -> Answer:
    """The answer, once the views are current: until then it is a 503, after two seconds."""
    patience = time.monotonic() + _SHOWN_SECONDS
    while (answer := await connection.request("GET", path)).status == 503 and time.monotonic() < patience:
        continue
    if answer.status != 200:
        raise NotAnswered(f"{answer.status} {answer.body[:300].decode()}")
    return answer


def _cuts(milliseconds: Sequence[float]) -> list[float]:
    if len(milliseconds) < 2:
        raise NotAnswered("hardly anything was answered in time")
    return quantiles(milliseconds, n=100, method="inclusive")
