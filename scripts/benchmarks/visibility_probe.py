"""Measures how long after its commit each append was visible in MongoDB, from outside the store.

Postgres sends a notification at each commit of events. The arrival of this notification is the time of the commit. The
events of a commit are the rows with the same `xmin`, the id of the transaction that wrote them. The view positions are
read every two milliseconds; that delay counts as lag.
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
"""The channel of the notification that Postgres sends at each commit of events."""

POSITIONS = "projections"
"""The MongoDB collection of the view positions."""

VIEWS = ("conversations", "items", "responses", "usage")
VISIBLE_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.002
_LISTEN_SECONDS = 0.1


class VisibilityProbe:
    """Records when events were committed and when they became visible, in two threads. Call `lags` after `stop`."""

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
        """Returns when all events that are committed now are visible, or after VISIBLE_TIMEOUT_SECONDS."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def lags(self, seconds: float) -> list[float]:
        """For each event of the last `seconds`, the milliseconds from its commit until it was visible. Raises RequestFailed if an event was missed."""
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
        """Records positions. Ends when everything is visible after `stop`, or VISIBLE_TIMEOUT_SECONDS after `stop`."""
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
    """Runs a probe during the block. At the end, waits until everything that was committed meanwhile is visible."""
    probe = VisibilityProbe(store)
    probe.start()
    try:
        yield probe
    finally:
        probe.stop()
