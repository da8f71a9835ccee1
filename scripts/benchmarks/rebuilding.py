"""A rebuild of all MongoDB views beside its two floors, on a store that holds the chitchat dataset: seconds, all of them.

The floors are what cannot be left out: decoding every event, in one process, and inserting the same documents into collections
with the same indexes, a thousand at a time, by one client. The rebuild is what `scripts.rebuild all --dry-run` fills.
"""

import subprocess
import sys
import time
from pathlib import Path

import psycopg
from pymongo import IndexModel, MongoClient

from infrastructure.event_log.codec import decode
from infrastructure.mongodb import Document
from infrastructure.settings import Settings
from projections.read_models import INDEXES, VIEWS
from projections.rebuilding import Rebuild
from scripts.benchmarks.figures import Board
from scripts.benchmarks.site import child_environment
from scripts.stores import open_stores

DECODED = "decoding every event"
INSERTED = "MongoDB bulk insert of the same documents"
FLOORS = "both floors together"
REBUILT = "rebuild of all views, two processes"

_ROWS_AT_ONCE = 10_000
_DOCUMENTS_AT_ONCE = 1_000
_SCRATCH = "bench_{view}"


def load(data: Path) -> None:
    """Fills the store with the chitchat dataset. Raises subprocess.CalledProcessError."""
    command = (sys.executable, "-P", "-m", "scripts.load", "chitchat", "--data", str(data), "--json")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=child_environment())  # noqa: S603 - our own script


async def run(board: Board, settings: Settings) -> None:
    """Adds one run to the board."""
    decoded, inserted = _decode(settings), _insert(settings)
    board.add(DECODED, decoded, unit="s")
    board.add(INSERTED, inserted, unit="s")
    board.add(FLOORS, decoded + inserted, unit="s")
    async with open_stores(settings) as stores:
        rebuild = Rebuild(
            VIEWS,
            settings=settings,
            reader=stores.reader,
            database=stores.database,
            redis=stores.redis,
            workers=2,
            report=lambda _phase, _done, _total: None,
        )
        done = await rebuild.run(swaps=False)
    board.add(REBUILT, done.filling_seconds, unit="s", floor=FLOORS)
    board.add(f"{REBUILT}: events", done.events / done.filling_seconds)


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
        for view in VIEWS:
            place = database["projections"].find_one({"_id": view}) or {}
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
