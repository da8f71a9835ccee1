"""A rebuild of all MongoDB views beside its two floors, on a store that holds the chitchat dataset: seconds, all of them.

The floors are what cannot be left out: decoding every event, in one process, and inserting the same documents into collections
with the same indexes, a thousand at a time, by one client. The rebuild is what `scripts.rebuild all --dry-run` fills; of its
processes the memory is what each has to itself at its peak (PSS), looked at five times a second.
"""

import asyncio
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
import psycopg
from msgspec import Struct
from pymongo import IndexModel, MongoClient

from infrastructure.event_log.codec import decode
from infrastructure.settings import Settings
from infrastructure.stores.mongodb import Document
from projections.views.catalog import INDEXES, MONGO_VIEWS
from scripts.benchmarks.client import NotAnswered
from scripts.benchmarks.figures import Board
from scripts.benchmarks.site import child_environment

DECODED = "decoding every event"
INSERTED = "MongoDB bulk insert of the same documents"
FLOORS = "both floors together"
REBUILT = "rebuild of all views, two processes"
BOUND = "a rebuild's process' memory, at most"
BOUND_MB = 300.0

_ROWS_AT_ONCE = 10_000
_DOCUMENTS_AT_ONCE = 1_000
_LOOK_SECONDS = 0.2
_SCRATCH = "bench_{view}"


def load(data: Path) -> None:
    """Fills the store with the chitchat dataset. Raises subprocess.CalledProcessError."""
    command = (sys.executable, "-P", "-m", "scripts.load", "chitchat", "--data", str(data), "--json")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=child_environment())  # noqa: S603 - our own script


class Rebuilt(Struct, frozen=True):
    """What `scripts.rebuild --json` said of a rebuild. `processes`: the peaks of memory, its own first, in bytes."""

    said: dict[str, Any]
    processes: list["Peak"]


class Peak(Struct):
    """The most that a process took while it was looked at. Resident memory counts shared pages for each who shares them."""

    pss: int = 0
    rss: int = 0


async def run(board: Board, settings: Settings, data: Path) -> None:
    """Adds one run to the board. Raises NotAnswered."""
    decoded, inserted = _decode(settings), _insert(settings)
    board.add(DECODED, decoded, unit="s")
    board.add(INSERTED, inserted, unit="s")
    board.add(FLOORS, decoded + inserted, unit="s")
    done = await rebuilt(data, "--dry-run")
    filling: float = done.said["filling_seconds"]
    board.add(REBUILT, filling, unit="s", floor=FLOORS)
    board.add(f"{REBUILT}: events", done.said["events"] / filling)
    board.add(BOUND, BOUND_MB, unit="MB")
    own, *others = done.processes
    for name, peaks in (("rebuild process", [own]), ("filling process, the largest", others)):
        board.add(f"{name}, peak", max(peak.pss for peak in peaks) / 1e6, unit="MB", floor=BOUND)
        board.add(f"{name}, peak RSS", max(peak.rss for peak in peaks) / 1e6, unit="MB", floor=BOUND)


async def rebuilt(data: Path, *options: str) -> Rebuilt:
    """Rebuilds all views as a user does, by two processes. Raises NotAnswered when it does not come to its end."""
    command = (
        sys.executable,
        "-P",
        "-m",
        "scripts.rebuild",
        "all",
        *options,
        "--workers",
        "2",
        "--data",
        str(data),
        "--json",
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=child_environment())
    peaks: defaultdict[int, Peak] = defaultdict(Peak, {process.pid: Peak()})
    ended = asyncio.create_task(process.communicate())
    try:
        while not ended.done():
            _look(process.pid, peaks)
            await asyncio.wait([ended], timeout=_LOOK_SECONDS)
        out, err = await ended
    finally:
        ended.cancel()
        if process.returncode is None:
            process.terminate()
            await process.wait()
    said = msgspec.json.decode(out)["rebuilt"] if out else None
    if said is None:
        raise NotAnswered(f"scripts.rebuild ended with {process.returncode}: {err.decode()}")
    return Rebuilt(said, list(peaks.values()))


def _look(pid: int, peaks: defaultdict[int, Peak]) -> None:
    """Notes what a process and its children take now."""
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            used, peak = process.memory_full_info(), peaks[process.pid]
            peak.pss, peak.rss = max(peak.pss, getattr(used, "pss", used.rss)), max(peak.rss, used.rss)
    except psutil.Error:  # one has just ended
        return


def _decode(settings: Settings) -> float:
    """Seconds; reading the rows does not count."""
    seconds = 0.0
    with psycopg.connect(settings.postgres_url) as connection, connection.cursor(name="events", binary=True) as cursor:
        cursor.execute("SELECT topic, state FROM events ORDER BY notification_id")
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            began = time.perf_counter()
            for topic, state in rows:
                decode(topic, state)
            seconds += time.perf_counter() - began
    return seconds


def _insert(settings: Settings) -> float:
    """Seconds; reading the documents, and making the collections, does not count."""
    seconds = 0.0
    client = MongoClient[Document](settings.mongodb_url, w=1)
    with client:
        database = client[settings.mongodb_database]
        for view in MONGO_VIEWS:
            place = database["projections"].find_one({"view": view}) or {}
            scratch = database[_SCRATCH.format(view=view)]
            scratch.drop()
            scratch.create_indexes([IndexModel(list(index)) for index in INDEXES[view]])
            batch: list[Document] = []
            for document in database[place.get("collection", view)].find(batch_size=_DOCUMENTS_AT_ONCE):
                batch.append(document)
                if len(batch) == _DOCUMENTS_AT_ONCE:
                    began = time.perf_counter()
                    scratch.insert_many(batch, ordered=False)
                    seconds += time.perf_counter() - began
                    batch = []
            if batch:
                began = time.perf_counter()
                scratch.insert_many(batch, ordered=False)
                seconds += time.perf_counter() - began
            scratch.drop()
    return seconds
