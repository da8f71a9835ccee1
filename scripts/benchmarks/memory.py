"""What the api process takes in memory: with many active conversations, then with a few that are very long.

PSS after they were used, shared pages being shared out; and the peak of its resident memory (RSS) since it started, `VmHWM` in
Linux' `/proc/PID/status`: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import APPEND, TEXT, begin_conversations, import_conversation, request
from scripts.http_connection import Connection

FEW = 5
ROUNDS = 3
FLOOR = "a process that imports the same servers and drivers"
MANY_CONNECTIONS = 32
FEW_CONNECTIONS = 8
READS = ("", "/items?limit=100&order=asc", "/items?limit=100&order=desc", "/context?model=gpt-4o")


class Memory(Benchmark):
    """Measured once: a process remembers, and its memory does not swing as speed does."""

    measured_once = True

    def prepare(self, store: BenchStore) -> None:
        """Nothing: what fills it is what is measured."""

    def measure(self, store: BenchStore) -> list[Measurement]:
        uvloop.run(self._use_many(store.base_url))
        many = store.api().memory_full_info().pss
        uvloop.run(self._use_long(store.base_url))
        long = store.api().memory_full_info().pss
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{store.api().pid}/status").read_text(), re.MULTILINE)
        assert peak is not None
        found = {
            f"api process, {self.sizes.active_conversations:,} active conversations, PSS": many,
            f"api process, {FEW} of {self.sizes.large_items:,} items, PSS": long,
            "api process, peak RSS": int(peak[1]) * 1024,
        }
        return [Measurement(name, value / 1e6, "MB", (FLOOR,)) for name, value in found.items()]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - the floor alone
        return {FLOOR: floor.process.memory_full_info().pss / 1e6}

    async def _use_many(self, base_url: str) -> None:
        """Starts conversations, and appends to each, ROUNDS times."""
        body = msgspec.json.encode({"title": TEXT, "metadata": {"topic": "memory"}})
        idents = await begin_conversations(base_url, self.sizes.active_conversations, body)
        appends = [("POST", f"/v1/conversations/{ident}/items", APPEND) for ident in idents]
        await _all(base_url, MANY_CONNECTIONS, appends * ROUNDS)

    async def _use_long(self, base_url: str) -> None:
        """Imports conversations; then appends to each and reads what can be read of it, ROUNDS times."""
        idents = [await import_conversation(base_url, self.sizes.large_items) for _ in range(FEW)]
        uses = [("POST", f"/v1/conversations/{ident}/items", APPEND) for ident in idents]
        uses += [("GET", f"/v1/conversations/{ident}{read}", b"") for read in READS for ident in idents]
        await _all(base_url, FEW_CONNECTIONS, uses * ROUNDS)


async def _all(base_url: str, connections: int, requests: Iterable[tuple[str, str, bytes]]) -> None:
    """Makes all of these requests. How long they take does not matter: what a busy store has no time for is asked again."""
    todo = iter(requests)

    async def some() -> None:
        connection = await Connection.open(base_url)
        for method, path, body in todo:
            await request(connection, method, path, body, patient=True)
        connection.close()

    await asyncio.gather(*(some() for _ in range(connections)))
