"""How long `GET …/context` takes: for a short conversation, for a full snapshot in Redis, and for more items than the snapshot holds."""

from collections.abc import Mapping

import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import import_conversation, timed_floors, timed_gets

SHORT = 20
FULL_SNAPSHOT = 512
MODEL = "gpt-4o"
"""The context window of this model has room for several thousand short items."""

FLOOR = "one Postgres look-up and one Redis GET of as many bytes"


class Context(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._item_counts = {
            f"context of {SHORT} items": SHORT,
            f"context of a full snapshot, {FULL_SNAPSHOT} items": FULL_SNAPSHOT,
            f"context of {sizes.long_items:,} items, beyond its snapshot": sizes.long_items,
        }
        self._paths: dict[BenchStore, dict[str, str]] = {}

    def prepare(self, store: BenchStore) -> None:
        self._paths[store] = {
            name: f"/v1/conversations/{uvloop.run(import_conversation(store.base_url, items))}/context?model={MODEL}"
            for name, items in self._item_counts.items()
        }

    def measure(self, store: BenchStore) -> list[Measurement]:
        times = uvloop.run(timed_gets(store.base_url, self._paths[store], self.sizes.seconds / 2))
        return [Measurement(name, ms, "ms", (f"{FLOOR} ({name})",)) for name, ms in times.items()]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        paths, seconds = self._paths[store], self.sizes.seconds / 2
        times = uvloop.run(timed_floors(store.base_url, floor.url, paths, "context", seconds))
        return {f"{FLOOR} ({name})": ms for name, ms in times.items()}
