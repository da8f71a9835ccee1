"""The eyes of `visibility`, in a process of their own: when each commit was, and when the views were seen to have come how far.

Reads a Look from stdin, prints READY when it looks, is told the last position on one more line, and prints what it Saw once that is
visible. Each commit notifies, so Postgres itself says when; the views are asked for their positions as every read asks.
"""

import sys
import threading
import time
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql
from pymongo import MongoClient

from infrastructure.event_log.recorder import CHANNEL
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION

READY = b"ready\n"
LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 60.0


class Look(Struct, frozen=True, kw_only=True):
    """Where to look."""

    postgres_url: str
    mongodb_url: str
    database: str


class Saw(Struct, frozen=True, kw_only=True):
    """Unix times. `commits`: one for each transaction; `visible`: (position that all views have come to, when first seen)."""

    commits: list[float]
    visible: list[tuple[int, float]]


def look(where: Look) -> Saw | None:
    """What was seen until the last position was visible; None when it was not within PATIENCE_SECONDS of being told."""
    commits: list[float] = []
    visible: list[tuple[int, float]] = []
    last: list[int] = []
    listening = threading.Event()

    def listen() -> None:
        with psycopg.connect(where.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            listening.set()
            for _ in connection.notifies():
                commits.append(time.time())  # noqa: PERF401 - each at its own time

    def hear() -> None:
        last.append(int(sys.stdin.buffer.readline()))

    for ear in (listen, hear):
        threading.Thread(target=ear, daemon=True).start()
    client: MongoClient[dict[str, Any]] = MongoClient(where.mongodb_url)
    with client:
        listening.wait(PATIENCE_SECONDS)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        places = client[where.database][POSITIONS_COLLECTION]
        asked = {"view": {"$in": list(MONGO_VIEWS)}}, {"position": 1}
        patience = None
        while not last or not visible or visible[-1][0] < last[0]:
            if last:
                patience = patience or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() > patience:
                    return None
            position = min(place["position"] for place in places.find(*asked))
            if not visible or position > visible[-1][0]:
                visible.append((position, time.time()))
            time.sleep(LOOK_SECONDS)
        return Saw(commits=list(commits), visible=visible)


if __name__ == "__main__":
    saw = look(msgspec.json.decode(sys.stdin.buffer.readline(), type=Look))
    sys.stdout.buffer.write(msgspec.json.encode(saw))
    sys.stdout.buffer.flush()
