"""The memory of the api process: after many active conversations, then after a few very long ones.

PSS divides each shared page among its processes. The peak RSS is `VmHWM` in `/proc/PID/status`:
https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
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
from scripts.benchmarks.requests import APPEND, TEXT, import_conversation, request, start_conversations
from scripts.http_connection import Connection

LONG_CONVERSATIONS = 5
ROUNDS = 3
FLOOR = "a process that imports the same servers and drivers"
APPEND_CONNECTIONS = 32
LONG_CONNECTIONS = 8
READS = ("", "/items?limit=100&order=asc", "/items?limit=100&order=desc", "/context?model=gpt-4o")


class Memory(Benchmark):
    """Measured once, because a second measurement would include the memory of the first."""

    measured_once = True

    def prepare(self, store: BenchStore) -> None:
        """Does nothing, because filling the store is part of the measurement."""

    def measure(self, store: BenchStore) -> list[Measurement]:
        uvloop.run(self._use_many(store.base_url))
        many = store.api_process().memory_full_info().pss
        uvloop.run(self._use_long(store.base_url))
        long = store.api_process().memory_full_info().pss
        status = Path(f"/proc/{store.api_process().pid}/status").read_text()
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        assert peak is not None
        bytes_used = {
            f"api process, {self.sizes.active_conversations:,} active conversations, PSS": many,
            f"api process, {LONG_CONVERSATIONS} of {self.sizes.large_items:,} items, PSS": long,
            "api process, peak RSS": int(peak[1]) * 1024,
        }
        return [Measurement(name, value / 1e6, "MB", (FLOOR,)) for name, value in bytes_used.items()]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - the floor alone
        return {FLOOR: floor.process.memory_full_info().pss / 1e6}

    async def _use_many(self, base_url: str) -> None:
        body = msgspec.json.encode({"title": TEXT, "metadata": {"topic": "memory"}})
        conversation_ids = await start_conversations(base_url, self.sizes.active_conversations, body)
        appends = [
            ("POST", f"/v1/conversations/{conversation_id}/items", APPEND) for conversation_id in conversation_ids
        ]
        await _send_all(base_url, APPEND_CONNECTIONS, appends * ROUNDS)

    async def _use_long(self, base_url: str) -> None:
        conversation_ids = [
            await import_conversation(base_url, self.sizes.large_items) for _ in range(LONG_CONVERSATIONS)
        ]
        uses = [("POST", f"/v1/conversations/{conversation_id}/items", APPEND) for conversation_id in conversation_ids]
        uses += [
            ("GET", f"/v1/conversations/{conversation_id}{read}", b"")
            for read in READS
            for conversation_id in conversation_ids
        ]
        await _send_all(base_url, LONG_CONNECTIONS, uses * ROUNDS)


async def _send_all(base_url: str, connections: int, requests: Iterable[tuple[str, str, bytes]]) -> None:
    """A request that a busy store refuses is sent again."""
    remaining = iter(requests)

    async def send() -> None:
        connection = await Connection.open(base_url)
        for method, path, body in remaining:
            await request(connection, method, path, body, retry_busy=True)
        connection.close()

    await asyncio.gather(*(send() for _ in range(connections)))
