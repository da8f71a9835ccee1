"""The time and the memory of a rebuild of all views by two processes, with `--dry-run`.

The floor of the time: one process decodes every event, then one client inserts the same documents.
"""

import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping

import psutil
import psycopg
import uvloop
from pymongo import IndexModel

from infrastructure.event_log.codec import decode
from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import RequestFailed, wait_for_views

FLOOR = "decoding every event, and inserting the same documents"
FLOOR_MEMORY = "a process that imports the same servers and drivers"
_ROWS = 10_000
_DOCUMENTS = 1_000
_POLL_SECONDS = 0.1


class Rebuild(Benchmark):
    def prepare(self, store: BenchStore) -> None:
        load = store.script("scripts.load", "chitchat", "--limit", str(self.sizes.dialogues), "--no-check")
        subprocess.run(load, check=True, capture_output=True, env=store.script_environment(), cwd=store.checkout)  # noqa: S603
        uvloop.run(wait_for_views(store.base_url))

    def measure(self, store: BenchStore) -> list[Measurement]:
        started = time.perf_counter()
        largest = _peak_memory(store, "scripts.rebuild", "all", "--dry-run", "--workers", "2")
        seconds = time.perf_counter() - started
        return [
            Measurement(f"rebuild of all views, {self.sizes.dialogues:,} dialogues", seconds, "s", (FLOOR,)),
            Measurement("memory of a rebuild's largest process, peak PSS", largest / 1e6, "MB", (FLOOR_MEMORY,)),
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        memory = floor.process.memory_full_info().pss / 1e6
        return {FLOOR: _decode_seconds(store) + _insert_seconds(store), FLOOR_MEMORY: memory}


def _peak_memory(store: BenchStore, *command: str) -> int:
    """The most PSS that one process of the script used, in bytes. Raises RequestFailed."""
    peaks: defaultdict[int, int] = defaultdict(int)
    with subprocess.Popen(  # noqa: S603 - our own script
        store.script(*command),
        env=store.script_environment(),
        cwd=store.checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while True:
                _note_memory(process.pid, peaks)
                try:
                    _, err = process.communicate(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.terminate()
    if process.returncode:
        raise RequestFailed(f"{' '.join(command)} exited with status {process.returncode}: {err}")
    return max(peaks.values(), default=0)


def _note_memory(pid: int, peaks: defaultdict[int, int]) -> None:
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            peaks[process.pid] = max(peaks[process.pid], process.memory_full_info().pss)
    except psutil.Error:  # a process has just ended
        return


def _decode_seconds(store: BenchStore) -> float:
    """Reading the rows does not count."""
    seconds = 0.0
    with psycopg.connect(store.postgres_url) as connection, connection.cursor(name="events", binary=True) as cursor:
        cursor.execute("SELECT topic, state FROM events ORDER BY notification_id")
        while rows := cursor.fetchmany(_ROWS):
            started = time.perf_counter()
            for topic, state in rows:
                decode(topic, state)
            seconds += time.perf_counter() - started
    return seconds


def _insert_seconds(store: BenchStore) -> float:
    """Only the inserts count. `feedback` has no documents."""
    seconds = 0.0
    with store.mongodb() as database:
        for view in ("conversations", "items", "responses", "search", "usage"):
            copy = database[f"bench_{view}"]
            copy.drop()
            indexes = [index["key"] for index in database[view].list_indexes()]
            copy.create_indexes([IndexModel(list(keys.items())) for keys in indexes])
            documents = list(database[view].find())
            for first in range(0, len(documents), _DOCUMENTS):
                started = time.perf_counter()
                copy.insert_many(documents[first : first + _DOCUMENTS], ordered=False)
                seconds += time.perf_counter() - started
            copy.drop()
    return seconds
