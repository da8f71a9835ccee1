"""Measures how long after its commit each append was visible in MongoDB.

Postgres's notification gives the time of the commit. Rows of one commit have the same `xmin`, the id of their
transaction.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.requests import RequestFailed

CHANNEL = "events"

POSITIONS = "projections"
"""The MongoDB collection of the view positions."""

VIEWS = ("conversations", "items", "responses", "usage")
VISIBLE_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.002
_LISTEN_SECONDS = 0.1


class VisibilityProbe:
    """Call `lags` after `stop`."""

    def __init__(self, store: BenchStore) -> None:
        self._store = store
        self._start_position = self._last_position()
        self._committed_at: list[float] = []
        self._visible_at: list[tuple[int, float]] = []
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._record_commits, self._record_positions)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._listening.wait(VISIBLE_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """Waits until all committed events are visible, at most VISIBLE_TIMEOUT_SECONDS."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def lags(self, seconds: float) -> list[float]:
        """The lag of each event of the last `seconds`, in milliseconds. Raises RequestFailed if a lag is not known."""
        transactions = self._transactions()
        commit_times = self._committed_at[-len(transactions) :]
        positions = [position for position, _ in self._visible_at]
        if len(commit_times) < len(transactions) or not positions or positions[-1] < transactions[-1][-1]:
            raise RequestFailed(
                "a commit's notification did not arrive, or an append was not visible within"
                f" {VISIBLE_TIMEOUT_SECONDS:.0f} s"
            )
        return [
            max(0.0, self._visible_at[bisect_left(positions, position)][1] - committed_at) * 1000
            for committed_at, transaction_positions in zip(commit_times, transactions, strict=True)
            if committed_at >= commit_times[-1] - seconds
            for position in transaction_positions
        ]

    def _record_commits(self) -> None:
        with psycopg.connect(self._store.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            self._listening.set()
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=_LISTEN_SECONDS):
                    self._committed_at.append(time.perf_counter())

    def _record_positions(self) -> None:
        last = deadline = None
        with self._store.mongodb() as database:
            while last is None or not self._visible_at or self._visible_at[-1][0] < last:
                if last is None and self._stopping.is_set():
                    last, deadline = self._last_position(), time.monotonic() + VISIBLE_TIMEOUT_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    return
                view_positions = database[POSITIONS].find({"view": {"$in": VIEWS}}, {"position": 1})
                position = min((int(document["position"]) for document in view_positions), default=0)
                if not self._visible_at or position > self._visible_at[-1][0]:
                    self._visible_at.append((position, time.perf_counter()))
                time.sleep(_POLL_SECONDS)

    def _last_position(self) -> int:
        with psycopg.connect(self._store.postgres_url) as connection:
            [last] = connection.execute("SELECT coalesce(max(notification_id), 0) FROM events").fetchone() or [0]
        return int(last)

    def _transactions(self) -> list[list[int]]:
        """The positions that each transaction wrote. Transactions commit in the order of positions."""
        positions: dict[str, list[int]] = {}
        query = "SELECT xmin::text, notification_id FROM events WHERE notification_id > %s ORDER BY notification_id"
        with psycopg.connect(self._store.postgres_url) as connection:
            for transaction, position in connection.execute(query, (self._start_position,)):
                positions.setdefault(transaction, []).append(position)
        return list(positions.values())


@contextmanager
def probing_visibility(store: BenchStore) -> Iterator[VisibilityProbe]:
    probe = VisibilityProbe(store)
    probe.start()
    try:
        yield probe
    finally:
        probe.stop()
