"""How long after its commit an append is visible in MongoDB: p50 and p99, at rates the projector should keep up with.

The load and the looking are processes of their own (`client`, `looking`). A commit's time is when Postgres notified of it; which
appends it was is told by the transaction that wrote their rows. Looking comes up to three milliseconds late, which counts as lag.
The projector's own histogram is a second opinion: it counts from before the commit, and knows its buckets only.
"""

import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import IO

import msgspec
import psycopg
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.settings import Settings
from projections.views.catalog import MONGO_VIEWS
from scripts import store_location
from scripts.benchmarks import site
from scripts.benchmarks.client import Job, NotAnswered
from scripts.benchmarks.figures import Board
from scripts.benchmarks.looking import PATIENCE_SECONDS, READY, Look, Saw
from scripts.benchmarks.over_http import BODY, MANY, measured
from scripts.keepalive import Connection

RATES = (100, 500)
LAG = "conversation_store_projection_lag_seconds_bucket"

Buckets = Mapping[float, float]
"""How many took no longer, by upper bound in seconds, as Prometheus has it."""


class NotVisible(Exception):
    """What was appended did not become visible within PATIENCE_SECONDS."""


def run(board: Board, data: Path, idents: list[str], seconds: float) -> None:
    """Adds one run at each rate to the board: the rate that was reached, and the lag behind it; then what the projector says.

    Raises NotVisible and NotAnswered.
    """
    settings, base_url = store_location.settings(data), store_location.base_url(data)
    paths = [f"/v1/conversations/{ident}/items" for ident in idents]
    for rate in RATES:
        job = Job(base_url=base_url, paths=paths, body=BODY, connections=MANY, seconds=seconds, rate=rate)
        begin, before = _last_position(settings), histogram(data)
        with _looking(settings) as (tell, said):
            score = measured(job)
            tell.write(b"%d\n" % _last_position(settings))
            tell.flush()
            saw = msgspec.json.decode(said.read(), type=Saw | None)
        if saw is None:
            raise NotVisible(f"not visible after {PATIENCE_SECONDS:.0f} s")
        cuts = quantiles(_lags(settings, begin, saw, seconds), n=100, method="inclusive")
        board.add(f"commit to visible, {rate} appends/s", score.per_second, p50_ms=cuts[49], p99_ms=cuts[98])
        since = {bound: count - before.get(bound, 0.0) for bound, count in histogram(data).items()}
        p50, p99 = (quantile(since, share) * 1000 for share in (0.5, 0.99))
        name = f"commit to visible by the projector's own account, {rate} appends/s"
        board.add(name, score.per_second, p50_ms=p50, p99_ms=p99)


def histogram(data: Path) -> dict[float, float]:
    """The lag of all MongoDB views that the projectors of this store have counted since they started."""

    async def fetch() -> list[str]:
        texts = []
        for url in site.projector_metrics(data):
            connection = await Connection.open(url)
            texts.append((await connection.request("GET", "")).body.decode())
            connection.close()
        return texts

    found: dict[float, float] = {}
    for text in uvloop.run(fetch()):
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        for sample in samples:
            if sample.name == LAG and sample.labels["projection"] in MONGO_VIEWS:
                bound = float(sample.labels["le"])
                found[bound] = found.get(bound, 0.0) + sample.value
    return found


def quantile(buckets: Buckets, share: float) -> float:
    """Seconds, evenly spread within a bucket, as Prometheus' histogram_quantile does:
    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile. Raises NotAnswered where nothing was counted.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        raise NotAnswered("the projector's metrics count no event")
    rank = share * buckets[bounds[-1]]
    for below, bound in pairwise([0.0, *bounds]):
        if buckets[bound] >= rank:
            if bound == bounds[-1]:
                return below
            less = buckets.get(below, 0.0)
            return below + (bound - below) * (rank - less) / (buckets[bound] - less)
    return bounds[-1]


@contextmanager
def _looking(settings: Settings) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A process that looks: (where it is told the last position, where it says what it saw)."""
    where = Look(
        postgres_url=settings.postgres_url, mongodb_url=settings.mongodb_url, database=settings.mongodb_database
    )
    command = (sys.executable, "-P", "-m", "scripts.benchmarks.looking")
    with subprocess.Popen(  # noqa: S603 - our own script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=site.child_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(where) + b"\n")
            process.stdin.flush()
            if process.stdout.readline() != READY:
                raise NotAnswered("the stores can not be looked at")
            yield process.stdin, process.stdout
        finally:
            process.kill()


def _last_position(settings: Settings) -> int:
    with psycopg.connect(settings.postgres_url) as connection:
        [last] = connection.execute("SELECT coalesce(max(notification_id), 0) FROM events").fetchone() or [0]
    return int(last)


def _lags(settings: Settings, begin: int, saw: Saw, seconds: float) -> list[float]:
    """Milliseconds from its commit until it was seen, of each event after `begin`; of those of the last `seconds`."""
    transactions = _transactions(settings, begin)
    commits = saw.commits[-len(transactions) :]
    if len(commits) < len(transactions):
        raise NotAnswered("not every commit was notified")
    positions = [position for position, _ in saw.visible]
    return [
        max(0.0, saw.visible[bisect_left(positions, position)][1] - at) * 1000
        for at, written in zip(commits, transactions, strict=True)
        if at >= commits[-1] - seconds
        for position in written
    ]


def _transactions(settings: Settings, begin: int) -> Sequence[list[int]]:
    """The positions after `begin` by the transaction that wrote them, in order of commits, which is that of positions."""
    found: dict[str, list[int]] = {}
    with psycopg.connect(settings.postgres_url) as connection:
        asked = "SELECT xmin::text, notification_id FROM events WHERE notification_id > %s ORDER BY notification_id"
        for transaction, position in connection.execute(asked, (begin,)):
            found.setdefault(transaction, []).append(position)
    return list(found.values())
