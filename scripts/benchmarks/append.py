"""Appends over HTTP while the projector runs: how many a second, and how long one takes at half load."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import psycopg
import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.load_client import Load, Score, send_load
from scripts.benchmarks.requests import APPEND, start_conversations, wait_for_views

CONNECTIONS = 32
NO_OP = "a no-op FastAPI app"
INSERTS = f"raw INSERTs of one row, {CONNECTIONS} connections"
_INSERT = (
    "INSERT INTO bench_events (originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject,"
    " command_id, correlation_id, chain_hash)"
    " VALUES (%(stream)s, %(version)s, 'item.appended', %(state)s, 'bench', %(item)s, now(), 'bench', %(command)s, 'bench', %(hash)s)"
)


class Append(Benchmark):
    """At half load, the rate is half of the rate that the first store reached in its first turn."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._half_load = 0.0
        self._paths: dict[BenchStore, list[str]] = {}

    def prepare(self, store: BenchStore) -> None:
        conversation_ids = uvloop.run(start_conversations(store.base_url, self.sizes.conversations))
        self._paths[store] = [f"/v1/conversations/{conversation_id}/items" for conversation_id in conversation_ids]

    def measure(self, store: BenchStore) -> list[Measurement]:
        one, many, half = self._scores(store.base_url, store)
        return [
            Measurement(
                f"HTTP appends a second, {CONNECTIONS} connections",
                many.per_second,
                "/s",
                (f"{NO_OP}, {CONNECTIONS}", INSERTS),
                "more",
            ),
            Measurement("HTTP appends a second, 1 connection", one.per_second, "/s", (f"{NO_OP}, 1",), "more"),
            Measurement("HTTP append at half load, p50", half.p50_ms, "ms", (f"{NO_OP}, same rate, p50",)),
            Measurement("HTTP append at half load, p99", half.p99_ms, "ms", (f"{NO_OP}, same rate, p99",)),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        one, many, half = self._scores(floor.url, store)
        return {
            f"{NO_OP}, {CONNECTIONS}": many.per_second,
            INSERTS: _inserts(store.postgres_url, self.sizes.seconds),
            f"{NO_OP}, 1": one.per_second,
            f"{NO_OP}, same rate, p50": half.p50_ms,
            f"{NO_OP}, same rate, p99": half.p99_ms,
        }

    def _scores(self, url: str, store: BenchStore) -> tuple[Score, Score, Score]:
        """The scores with one connection, with many, and with many at half load."""

        def score(connections: int, rate: float = 0.0) -> Score:
            paths, seconds = self._paths[store], self.sizes.seconds
            return send_load(Load(base_url=url, paths=paths, connections=connections, seconds=seconds, rate=rate))

        one, many = score(1), score(CONNECTIONS)
        self._half_load = self._half_load or many.per_second / 2
        uvloop.run(wait_for_views(store.base_url))  # otherwise the projector is still busy with the full load
        return one, many, score(CONNECTIONS, self._half_load)


def _inserts(postgres_url: str, seconds: float) -> float:
    """How many rows Postgres inserts per second into a table like `events`. Each row is committed alone."""

    def write(connection: psycopg.Connection) -> int:
        version, fixed = 0, {"stream": uuid4(), "state": APPEND, "hash": b"\0" * 32}
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            version += 1
            connection.execute(_INSERT, {**fixed, "version": version, "item": uuid4().hex, "command": uuid4()})
        return version

    with ExitStack() as stack, ThreadPoolExecutor(CONNECTIONS) as pool:
        connections = [stack.enter_context(psycopg.connect(postgres_url, autocommit=True)) for _ in range(CONNECTIONS)]
        connections[0].execute("CREATE TABLE IF NOT EXISTS bench_events (LIKE events INCLUDING ALL)")
        return sum(pool.map(write, connections)) / seconds
