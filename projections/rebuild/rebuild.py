"""Runs a rebuild: backfill, catch up, compare, swap. One rebuild runs at a time.

Each step is recorded in MongoDB, so the next run resumes after an interruption.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.projector import Projector
from projections.rebuild.backfill import BackfillTask
from projections.rebuild.backfill_workers import run_backfill
from projections.rebuild.compare import Comparison, compare
from projections.rebuild.view_builds import ViewBuild, ViewBuilds
from projections.retry_moved import retry_while_moved
from projections.views.catalog import MongoView

STALLED_SECONDS = 2.0
"""If no position moves for this long, this process assumes that no projector runs, and runs one."""

_RECORD_SECONDS = 0.5
_POLL_SECONDS = 0.05

_LOCK = 7_203_914_411
Report = Callable[[str, int, int], None]
"""Receives (phase, done, total)."""


class RebuildResult(Struct, frozen=True, kw_only=True):
    """What a rebuild or a rollback did.

    `events`: the log position up to which the views were backfilled; 0 if no view was backfilled.
    """

    compared: list[Comparison]
    events: int
    backfill_seconds: float
    swap_seconds: float | None = None


class AnotherRebuild(Exception):
    """Another rebuild is running. Nothing was done."""


class Rebuild:
    """If no projector advances the builds, the rebuild runs one from `make_projector`.

    Raises AnotherRebuild, and DataIsNewer if newer code built a view. After PyMongoError, psycopg.Error, BackfillFailed
    or BuildGone, run the rebuild again.
    """

    def __init__(
        self,
        views: Sequence[MongoView],
        *,
        settings: Settings,
        pool: Pool,
        database: Database,
        make_projector: Callable[[], Projector],
        workers: int,
        report: Report = lambda _phase, _done, _total: None,
    ) -> None:
        self._views = views
        self._settings = settings
        self._pool = pool
        self._database = database
        self._make_projector = make_projector
        self._workers = workers
        self._report = report
        self._builds = ViewBuilds(database)

    async def run(self, *, swaps: bool = True) -> RebuildResult:
        """Without `swaps`, drops the builds after the comparison."""
        async with self._locked() as lock:
            started = time.monotonic()
            end = await EventReader(self._pool).end()
            builds = await retry_while_moved(lambda: self._builds.start(self._views, end, self._workers))
            raise_if_cancelled()
            for group in _same_progress(builds):
                await self.backfill(group)
            raise_if_cancelled()
            seconds = time.monotonic() - started
            events = builds[0].target if builds else 0
            result = RebuildResult(compared=await self.compare(), events=events, backfill_seconds=seconds)
            if not swaps:
                await self._drop()
                return result
            return await self._swapped(result, lock)

    async def roll_back(self) -> RebuildResult | None:
        """Swaps back to the collections that the last swap kept. Returns None if no collections were kept."""
        async with self._locked() as lock:
            self._views = await self._builds.resume_kept(self._views)
            if not self._views:
                return None
            result = RebuildResult(compared=await self.compare(), events=0, backfill_seconds=0.0)
            return await self._swapped(result, lock)

    async def cancel(self) -> list[MongoView]:
        """Drops unfinished builds and kept collections. Returns their views."""
        async with self._locked():
            return await self._drop()

    async def _drop(self) -> list[MongoView]:
        return await retry_while_moved(lambda: self._builds.drop(self._views))

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """Raises AnotherRebuild."""
        connection = await psycopg.AsyncConnection.connect(self._settings.postgres_url, autocommit=True)
        async with connection:
            [(locked,)] = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))).fetchall()
            if not locked:
                raise AnotherRebuild
            try:
                yield connection
            finally:
                with suppress(psycopg.Error):  # closing the connection would unlock it too, but a moment later
                    await connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

    async def backfill(self, builds: Sequence[ViewBuild]) -> None:
        """The builds must have the same progress, because the log is read once for all of them."""
        views = [build.view for build in builds]
        target, reached = builds[0].target, dict(builds[0].reached)
        tasks = [
            BackfillTask(
                postgres_url=self._settings.postgres_url,
                mongodb_url=self._settings.mongodb_url,
                database=self._database.name,
                collections={build.view: build.collection for build in builds},
                parked=frozenset[str]().union(*(build.parked for build in builds)),
                number=number,
                partitions=builds[0].partitions[number],
                after=after,
                target=target,
                incarnation=builds[0].incarnation,
            )
            for number, after in reached.items()
        ]
        recorded_at = time.monotonic()
        async for progress in run_backfill(tasks):
            reached[progress.number] = progress.position
            if progress.parked or progress.released or time.monotonic() - recorded_at > _RECORD_SECONDS:
                await self._builds.record_progress(views, reached, progress)
                recorded_at = time.monotonic()
            self._report("backfill", sum(reached.values()) // len(reached), target)
        await self._builds.finish_backfill(views)

    async def compare(self) -> list[Comparison]:
        """Waits until each build is at its view's position, then compares each build with the live view."""
        running: asyncio.Task[None] | None = None
        stop = asyncio.Event()
        last, moved_at = None, time.monotonic()
        try:
            while differing := await self._builds.differing_positions(self._views):
                build, live = min(differing.values())
                self._report("catching up", build, max(build, live))
                if differing != last:
                    last, moved_at = differing, time.monotonic()
                elif running is None and time.monotonic() - moved_at > STALLED_SECONDS:
                    running = asyncio.create_task(self._make_projector().run(stop))
                if running is not None and running.done():
                    running.result()
                raise_if_cancelled()
                await asyncio.sleep(_POLL_SECONDS)
            self._report("comparing", 0, len(self._views))
            return [await retry_while_moved(partial(compare, self._database, view)) for view in self._views]
        finally:
            stop.set()
            if running is not None:
                await running

    async def _swapped(self, result: RebuildResult, lock: psycopg.AsyncConnection[tuple[Any, ...]]) -> RebuildResult:
        self._report("swapping", 0, len(self._views))
        await lock.execute("SELECT 1")  # fails if the connection was lost, and with it the lock

        async def swap() -> float:
            started = time.monotonic()
            await self._builds.swap(self._views)
            return time.monotonic() - started

        return replace(result, swap_seconds=await retry_while_moved(swap))


def _same_progress(builds: Collection[ViewBuild]) -> list[list[ViewBuild]]:
    groups: list[list[ViewBuild]] = []
    for build in builds:
        for group in groups:
            first = group[0]
            if (build.target, build.reached, build.partitions) == (first.target, first.reached, first.partitions):
                group.append(build)
                break
        else:
            groups.append([build])
    return groups
