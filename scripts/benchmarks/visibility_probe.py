"""How long after its commit each append was visible in MongoDB, seen from outside the store.

When a commit was, Postgres itself says: it notifies of each. Which appends it was, the transaction tells that wrote their rows. The
views are asked every two milliseconds how far they have come; that delay counts as lag.
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
"""What Postgres notifies of at each commit of events."""

POSITIONS = "projections"
"""The collection that says how far each view has come."""

VIEWS = ("conversations", "items", "responses", "usage")
VISIBLE_TIMEOUT_SECONDS = 60.0
_LOOK_SECONDS = 0.002
_LISTEN_SECONDS = 0.1


class VisibilityProbe:
    """What was seen of a store since this was made. `lags` may be asked when the load and the watching are over."""

    def __init__(self, store: BenchStore) -> None:
        self._store = store
        self._begin = self._last_position()
        self._commits: list[float] = []
        self._visible: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._listening = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._look)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._listening.wait(VISIBLE_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def lags(self, seconds: float) -> list[float]:
        """Milliseconds from commit to visible of each event of the last `seconds`. Raises RequestFailed where one was missed."""
        transactions = self._transactions()
        commits = self._commits[-len(transactions) :]
        positions = [position for position, _ in self._visible]
        if len(commits) < len(transactions) or not positions or positions[-1] < transactions[-1][-1]:
            raise RequestFailed(f"not every append was notified of, or visible within {VISIBLE_TIMEOUT_SECONDS:.0f} s")
        return [
            max(0.0, self._visible[bisect_left(positions, position)][1] - committed) * 1000
            for committed, written in zip(commits, transactions, strict=True)
            if committed >= commits[-1] - seconds
            for position in written
        ]

    def _listen(self) -> None:
        with psycopg.connect(self._store.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            self._listening.set()
            while not self._over.is_set():
                for _ in connection.notifies(timeout=_LISTEN_SECONDS):
                    self._commits.append(time.perf_counter())

    def _look(self) -> None:
        """Until the load is over and all of it is visible."""
        last = deadline = None
        with self._store.mongodb() as database:
            while last is None or not self._visible or self._visible[-1][0] < last:
                if last is None and self._over.is_set():
                    last, deadline = self._last_position(), time.monotonic() + VISIBLE_TIMEOUT_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    return
                found = database[POSITIONS].find({"view": {"$in": VIEWS}}, {"position": 1})
                position = min((int(view["position"]) for view in found), default=0)
                if not self._visible or position > self._visible[-1][0]:
                    self._visible.append((position, time.perf_counter()))
                time.sleep(_LOOK_SECONDS)

    def _last_position(self) -> int:
        with psycopg.connect(self._store.postgres_url) as connection:
            [last] = connection.execute("SELECT coalesce(max(notification_id), 0) FROM events").fetchone() or [0]
        return int(last)

    def _transactions(self) -> list[list[int]]:
        """The positions by the transaction that wrote them, in order of commits, which is that of positions."""
        found: dict[str, list[int]] = {}
        asked = "SELECT xmin::text, notification_id FROM events WHERE notification_id > %s ORDER BY notification_id"
        with psycopg.connect(self._store.postgres_url) as connection:
            for transaction, position in connection.execute(asked, (self._begin,)):
                found.setdefault(transaction, []).append(position)
        return list(found.values())


@contextmanager
def watching(store: BenchStore) -> Iterator[VisibilityProbe]:
    """Watches a store until all is visible that was committed meanwhile."""
    probe = VisibilityProbe(store)
    probe.start()
    try:
        yield probe
    finally:
        probe.stop()
