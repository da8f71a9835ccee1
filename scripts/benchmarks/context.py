"""How long `GET …/context` takes: from the snapshot in Redis and from the log."""

from collections.abc import Mapping

import redis
import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import import_conversation, timed_floors, timed_gets

MODEL = "gpt-4.1"
"""Its window is so large that only the budgets limit a context."""

SHORT = 20
BUDGET = 4_000
"""Tokens. About two hundred items fit."""

MESSAGE_TOKENS = 20
"""The tokens of a message of `import_conversation`: 16 for its text, and 4 more."""

FROM_LOG = ", from the log"

FLOOR = "one Postgres look-up and one Redis GET of as many bytes"


class Context(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        medium_items = sizes.longest_items // 100
        medium, longest = (f"context of {items:,} items" for items in (medium_items, sizes.longest_items))
        self._conversations = {
            f"context of {SHORT} items": (SHORT, BUDGET),
            medium: (medium_items, BUDGET),
            longest: (sizes.longest_items, BUDGET),
            f"{medium}{FROM_LOG}": (medium_items, BUDGET),
            f"{longest}{FROM_LOG}": (sizes.longest_items, BUDGET),
            f"context of {sizes.context_tokens:,} tokens of short messages": (
                sizes.context_tokens // MESSAGE_TOKENS,
                sizes.context_tokens,
            ),
        }
        self._compared = {
            longest: (medium, f"{longest}{FROM_LOG}"),
            f"{longest}{FROM_LOG}": (f"{medium}{FROM_LOG}",),
        }
        """Figures that a figure is compared with, besides its floor."""
        self._paths: dict[BenchStore, dict[str, str]] = {}
        self._times: dict[str, float] = {}

    def prepare(self, store: BenchStore) -> None:
        self._paths[store] = {}
        with redis.Redis.from_url(store.env["REDIS_URL"]) as client:
            for name, (items, budget) in self._conversations.items():
                conversation = uvloop.run(import_conversation(store.base_url, items, {"budget": budget}))
                self._paths[store][name] = f"/v1/conversations/{conversation}/context?model={MODEL}"
                if name.endswith(FROM_LOG):
                    for key in client.scan_iter(f"*{conversation}*"):
                        client.delete(key)

    def measure(self, store: BenchStore) -> list[Measurement]:
        self._times = uvloop.run(timed_gets(store.base_url, self._paths[store], self.sizes.seconds / 2))
        return [
            Measurement(name, ms, "ms", (f"{FLOOR} ({name})", *self._compared.get(name, ())))
            for name, ms in self._times.items()
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        paths, seconds = self._paths[store], self.sizes.seconds / 2
        times = uvloop.run(timed_floors(store.base_url, floor.url, paths, "context", seconds))
        others = {other: self._times[other] for names in self._compared.values() for other in names}
        return {**others, **{f"{FLOOR} ({name})": ms for name, ms in times.items()}}
