"""How long a search takes, and how soon an append is found, while appends come in."""

import asyncio
import random
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from statistics import median, quantiles
from urllib.parse import quote
from uuid import uuid4

import msgspec
import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.load_client import Load, send_load
from scripts.benchmarks.requests import RequestFailed, request, start_conversations, wait_for_views
from scripts.http_connection import Connection
from scripts.loading.sources import Chitchat, Conversation

CONNECTIONS = 4
QUERIES = 200
RATE = 100
APPENDS_TO_FIND = 20
FIND_TIMEOUT_SECONDS = 30.0
COMMON_WORD = "you"
NEWEST = 2_000

FLOOR = f"reading {NEWEST:,} documents of a common word from MongoDB"
SIZE_FLOOR = "the view items"


class Search(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._queries: list[str] = []
        self._paths: dict[BenchStore, list[str]] = {}

    def prepare(self, store: BenchStore) -> None:
        load = store.script("scripts.load", "chitchat", "--limit", str(self.sizes.searched_dialogues), "--no-check")
        subprocess.run(load, check=True, capture_output=True, env=store.script_environment(), cwd=store.checkout)  # noqa: S603
        conversation_ids = uvloop.run(start_conversations(store.base_url, CONNECTIONS))
        self._paths[store] = [f"/v1/conversations/{conversation_id}/items" for conversation_id in conversation_ids]
        self._queries = drawn_queries(self.sizes.searched_dialogues)
        uvloop.run(wait_for_views(store.base_url))

    def measure(self, store: BenchStore) -> list[Measurement]:
        load = Load(
            base_url=store.base_url,
            paths=self._paths[store],
            connections=CONNECTIONS,
            seconds=4 * self.sizes.seconds,
            rate=RATE,
        )
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(send_load, load)
            times = uvloop.run(_search_times(store.base_url, self._queries))
            found = uvloop.run(_found_times(store.base_url, self._paths[store][0]))
            loading.result()
        cuts = quantiles(times, n=100, method="inclusive")
        name = f"search, {CONNECTIONS} connections, {RATE} appends/s"
        return [
            Measurement(f"{name}, p50", cuts[49], "ms", (FLOOR,)),
            Measurement(f"{name}, p99", cuts[98], "ms", (FLOOR,)),
            Measurement("commit to found, median", median(found), "ms", (FLOOR,)),
            Measurement("commit to found, longest", max(found), "ms", (FLOOR,)),
            Measurement("size of the view search with its indexes", _megabytes(store, "search"), "MB", (SIZE_FLOOR,)),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - MongoDB is the floor
        return {FLOOR: _read_milliseconds(store), SIZE_FLOOR: _megabytes(store, "items")}


def drawn_queries(dialogues: int) -> list[str]:
    """Queries with words of the dialogues. The queries are the same in every run."""
    rng = random.Random(QUERIES)  # noqa: S311 - not for secrets
    source = (entry for entry in islice(Chitchat(), dialogues) if isinstance(entry, Conversation))
    texts = [item["content"] for entry in source for item in entry.items]
    queries: list[str] = []
    while len(queries) < QUERIES:
        words = [word for word in rng.choice(texts).split() if word.isalnum()]
        if len(words) < 3:
            continue
        kind = rng.choice(("one", "two", "three", "phrase", "prefix"))
        first = rng.randrange(len(words) - 1)
        queries.append(
            {
                "one": words[first],
                "two": " ".join(rng.sample(words, 2)),
                "three": " ".join(rng.sample(words, 3)),
                "phrase": f'"{words[first]} {words[first + 1]}"',
                "prefix": f"{words[first][:4]}*",
            }[kind]
        )
    return queries


async def _search_times(base_url: str, queries: Sequence[str]) -> list[float]:
    remaining = iter(queries)

    async def run() -> list[float]:
        connection = await Connection.open(base_url)
        times = []
        for query in remaining:
            started = time.perf_counter()
            await request(connection, "GET", f"/v1/search?q={quote(query)}")
            times.append((time.perf_counter() - started) * 1000)
        connection.close()
        return times

    return [each for times in await asyncio.gather(*(run() for _ in range(CONNECTIONS))) for each in times]


async def _found_times(base_url: str, path: str) -> list[float]:
    """Milliseconds from the answer to an append until a search finds it. Raises RequestFailed."""
    connection = await Connection.open(base_url)
    times = []
    for _ in range(APPENDS_TO_FIND):
        word = f"word{uuid4().hex}"
        body = msgspec.json.encode({"items": [{"type": "message", "role": "user", "content": word}]})
        await request(connection, "POST", path, body)
        started = time.perf_counter()
        while not (await request(connection, "GET", f"/v1/search?q={word}")).json()["data"]:
            if time.perf_counter() > started + FIND_TIMEOUT_SECONDS:
                raise RequestFailed(f"an append was not found within {FIND_TIMEOUT_SECONDS:.0f} s")
        times.append((time.perf_counter() - started) * 1000)
    connection.close()
    return times


def _read_milliseconds(store: BenchStore) -> float:
    times = []
    with store.mongodb() as database:
        some = database["search"].find_one() or {}
        where = {"tenant": some.get("tenant"), "owner": some.get("owner"), "terms": COMMON_WORD}
        for _ in range(APPENDS_TO_FIND):
            started = time.perf_counter()
            list(database["search"].find(where, {"_id": 1}).sort("order", -1).limit(NEWEST))
            times.append((time.perf_counter() - started) * 1000)
    return median(times)


def _megabytes(store: BenchStore, view: str) -> float:
    """Size on disk, indexes included."""
    with store.mongodb() as database:
        return float(database.command("collStats", view)["totalSize"]) / 1e6
