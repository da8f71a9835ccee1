"""What `GET …/context` takes: of a short conversation, of all that a snapshot in Redis holds, and of more, which the log is read for."""

from collections.abc import Mapping

import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import import_conversation, request, timed_gets
from scripts.http_connection import Connection

SHORT = 20
FULL_SNAPSHOT = 512
MODEL = "gpt-4o"
"""Its window has room for several thousand short items."""

LEAST = "one Postgres look-up and one Redis GET of as much"


class Context(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._kinds = {
            f"context of {SHORT} items": SHORT,
            f"context of a full snapshot, {FULL_SNAPSHOT} items": FULL_SNAPSHOT,
            f"context of {sizes.long_items:,} items, beyond its snapshot": sizes.long_items,
        }
        self._paths: dict[BenchStore, dict[str, str]] = {}

    def prepare(self, store: BenchStore) -> None:
        self._paths[store] = {
            name: f"/v1/conversations/{uvloop.run(import_conversation(store.base_url, items))}/context?model={MODEL}"
            for name, items in self._kinds.items()
        }

    def measure(self, store: BenchStore) -> list[Measurement]:
        taken = uvloop.run(timed_gets(store.base_url, self._paths[store], self.sizes.seconds / 2))
        return [Measurement(name, ms, "ms", (f"{LEAST} ({name})",)) for name, ms in taken.items()]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        taken = uvloop.run(self._floors(store, floor.url))
        return {f"{LEAST} ({name})": ms for name, ms in taken.items()}

    async def _floors(self, store: BenchStore, floor_url: str) -> dict[str, float]:
        ours, floor = await Connection.open(store.base_url), await Connection.open(floor_url)
        paths = {}
        for number, (name, path) in enumerate(self._paths[store].items()):
            await request(floor, "PUT", f"/floor/context-{number}", (await request(ours, "GET", path)).body)
            paths[name] = f"/floor/context-{number}/context"
        ours.close()
        floor.close()
        return await timed_gets(floor_url, paths, self.sizes.seconds / 2)
