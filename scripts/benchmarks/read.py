"""How soon after its commit an append is visible, and how long a page of a long conversation takes."""

import time
from collections.abc import Mapping
from statistics import median, quantiles

import uvloop
from pymongo import WriteConcern

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.load_client import Load, send_load
from scripts.benchmarks.requests import import_conversation, request, start_conversations, timed_floors, timed_gets
from scripts.benchmarks.visibility_probe import probing_visibility
from scripts.http_connection import Connection

RATE = 500
CONNECTIONS = 32
PAGE = 20
WRITES = 200

NEWEST, OLDEST = f"page of the newest {PAGE} items", f"page of the oldest {PAGE} items"
WRITE_FLOOR = "one journaled majority write to MongoDB"
PAGE_FLOOR = f"one Postgres look-up and one MongoDB find of {PAGE} items"


class Read(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._paths: dict[BenchStore, list[str]] = {}
        self._pages: dict[BenchStore, dict[str, str]] = {}

    def prepare(self, store: BenchStore) -> None:
        items = f"/v1/conversations/{uvloop.run(import_conversation(store.base_url, self.sizes.long_items))}/items"
        self._pages[store] = {NEWEST: f"{items}?limit={PAGE}", OLDEST: uvloop.run(_oldest_page(store.base_url, items))}
        conversation_ids = uvloop.run(start_conversations(store.base_url, self.sizes.conversations))
        self._paths[store] = [f"/v1/conversations/{conversation_id}/items" for conversation_id in conversation_ids]

    def measure(self, store: BenchStore) -> list[Measurement]:
        load = Load(
            base_url=store.base_url,
            paths=self._paths[store],
            connections=CONNECTIONS,
            seconds=self.sizes.seconds,
            rate=RATE,
        )
        with probing_visibility(store) as probe:
            send_load(load)
        cuts = quantiles(probe.lags(self.sizes.seconds), n=100, method="inclusive")
        pages = uvloop.run(timed_gets(store.base_url, self._pages[store], self.sizes.seconds / 2))
        name = f"commit to visible at {RATE} appends/s"
        return [
            Measurement(f"{name}, p50", cuts[49], "ms", (WRITE_FLOOR,)),
            Measurement(f"{name}, p99", cuts[98], "ms", (WRITE_FLOOR,)),
            *(
                Measurement(f"{page} of {self.sizes.long_items:,}", ms, "ms", (PAGE_FLOOR,))
                for page, ms in pages.items()
            ),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        newest = {PAGE_FLOOR: self._pages[store][NEWEST]}
        page = uvloop.run(timed_floors(store.base_url, floor.url, newest, "page", self.sizes.seconds / 2))
        return {WRITE_FLOOR: _majority_write(store), **page}


async def _oldest_page(base_url: str, items: str) -> str:
    """The path of the last page for a client that starts with the newest items."""
    connection = await Connection.open(base_url)
    answer = await request(connection, "GET", f"{items}?limit={PAGE + 1}&order=asc")
    connection.close()
    return f"{items}?limit={PAGE}&after={answer.json()['last_id']}"


def _majority_write(store: BenchStore) -> float:
    """The median of one write, in milliseconds. No append can be visible sooner."""
    milliseconds = []
    with store.mongodb() as database:
        writes = database.get_collection("bench_writes", write_concern=WriteConcern("majority", j=True))
        for _ in range(WRITES):
            started = time.perf_counter()
            writes.insert_one({})
            milliseconds.append((time.perf_counter() - started) * 1000)
    return median(milliseconds)
