"""A rebuild beside the living: new generations of views, filled, brought up to date, compared, and swapped, while users read on.

Each step is on record in MongoDB (`generations.py`): broken off anywhere, the next run goes on from there. Readers see the view
as it was up to the swap, and as it is from then on. One rebuild runs at a time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from msgspec import Struct
from redis.asyncio import Redis

from infrastructure.event_log.reader import EventReader
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.cancellation import heed_cancellation
from projections.projector import Projector
from projections.rebuild.backfill import Share, filled
from projections.rebuild.compare import Comparison, compare
from projections.rebuild.view_builds import ViewBuild, ViewBuilds
from projections.view_positions import PositionMoved
from projections.views.catalog import MongoView

PATIENCE_SECONDS = 2.0
"""How long nothing may move before this process does the projectors' work itself."""

_NOTE_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 0.05

_LOCK = 7_203_914_411
"""The advisory lock under which one process at a time does this."""

T = TypeVar("T")


Report = Callable[[str, int, int], None]
"""Is told what is going on, and how far it is: (phase, done, total)."""


class Rebuilt(Struct, frozen=True, kw_only=True):
    """How it ended. `swap_seconds`: how long the exchange took; None where there was none, as when it only compares."""

    compared: list[Comparison]
    events: int
    filling_seconds: float
    swap_seconds: float | None = None


class AnotherRebuild(Exception):
    """Another process is at it: nothing was done."""


class Rebuild:
    """The rebuild of some views. Raises AnotherRebuild, and PyMongoError, psycopg.Error, BackfillFailed, BuildGone: then run it again."""

    def __init__(
        self,
        views: Sequence[MongoView],
        *,
        settings: Settings,
        pool: Pool,
        database: Database,
        redis: Redis,
        workers: int,
        report: Report,
    ) -> None:
        self._views = views
        self._settings = settings
        self._pool = pool
        self._database = database
        self._redis = redis
        self._workers = workers
        self._report = report
        self._generations = ViewBuilds(database)
        self._lock: psycopg.AsyncConnection[tuple[Any, ...]]

    async def run(self, *, swaps: bool = True) -> Rebuilt:
        """Makes the views anew, compares, and exchanges them; without `swaps` it drops the new ones again instead."""
        async with self._alone():
            return await self._run(swaps=swaps)

    async def _run(self, *, swaps: bool) -> Rebuilt:
        began = time.monotonic()
        until = await EventReader(self._pool).last_position()
        fillings = await patiently(lambda: self._generations.begin(self._views, until, self._workers))
        heed_cancellation()
        for alike in _alike(fillings):
            await self._fill(alike)
        heed_cancellation()
        seconds = time.monotonic() - began
        done = sum(filling.until for filling in fillings[:1])
        rebuilt = Rebuilt(compared=await self._compared(), events=done, filling_seconds=seconds)
        if not swaps:
            await self._cancel()
            return rebuilt
        return await self._swapped(rebuilt)

    async def roll_back(self) -> Rebuilt | None:
        """Brings back the views that were kept at the last swap; None where nothing was kept."""
        async with self._alone():
            self._views = await self._generations.bring_back(self._views)
            if not self._views:
                return None
            return await self._swapped(Rebuilt(compared=await self._compared(), events=0, filling_seconds=0.0))

    async def cancel(self) -> list[MongoView]:
        """Drops what was begun or kept; says of which views there was anything."""
        async with self._alone():
            return await self._cancel()

    async def _cancel(self) -> list[MongoView]:
        return await patiently(lambda: self._generations.cancel(self._views))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        connection = await psycopg.AsyncConnection.connect(self._settings.postgres_url, autocommit=True)
        async with connection:
            [(taken,)] = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))).fetchall()
            if not taken:
                raise AnotherRebuild
            self._lock = connection
            yield

    async def _fill(self, fillings: Sequence[ViewBuild]) -> None:
        """Fills collections that are equally far, in as many processes as they have shares."""
        views = [filling.view for filling in fillings]
        until, reached = fillings[0].until, dict(fillings[0].shares)
        shares = [
            Share(
                postgres_url=self._settings.postgres_url,
                mongodb_url=self._settings.mongodb_url,
                database=self._database.name,
                collections={filling.view: filling.collection for filling in fillings},
                parked=frozenset[str]().union(*(filling.parked for filling in fillings)),
                number=number,
                partitions=fillings[0].partitions[number],
                after=after,
                until=until,
            )
            for number, after in reached.items()
        ]
        noted = time.monotonic()
        async for news in filled(shares):
            reached[news.number] = news.position
            if news.parked or news.released or time.monotonic() - noted > _NOTE_SECONDS:
                await self._generations.note(views, reached, news)
                noted = time.monotonic()
            self._report("filling", sum(reached.values()) // len(reached), until)
        await self._generations.filled(views)

    async def _compared(self) -> list[Comparison]:
        """Waits until the other generations stand where the views stand, and compares them."""
        running: asyncio.Task[None] | None = None
        stop = asyncio.Event()
        seen, moved_at = None, time.monotonic()
        try:
            while behind := await self._generations.behind(self._views):
                other, live = min(behind.values())
                self._report("catching up", other, max(other, live))
                if behind != seen:
                    seen, moved_at = behind, time.monotonic()
                elif running is None and time.monotonic() - moved_at > PATIENCE_SECONDS:
                    running = asyncio.create_task(self._runner().run(stop))
                if running is not None and running.done():
                    running.result()
                heed_cancellation()
                await asyncio.sleep(_LOOK_SECONDS)
            self._report("comparing", 0, len(self._views))
            return [await patiently(partial(compare, self._database, view)) for view in self._views]
        finally:
            stop.set()
            if running is not None:
                await running

    def _runner(self) -> Projector:
        return Projector(
            postgres_url=self._settings.postgres_url,
            pool=self._pool,
            database=self._database,
            redis=self._redis,
            metrics=Metrics(),
        )

    async def _swapped(self, rebuilt: Rebuilt) -> Rebuilt:
        self._report("swapping", 0, len(self._views))
        await self._lock.execute("SELECT 1")  # where that was lost, another may be at it
        taken = 0.0

        async def swap() -> None:
            nonlocal taken
            began = time.monotonic()
            await self._generations.swap(self._views)
            taken = time.monotonic() - began

        await patiently(swap)
        return Rebuilt(
            compared=rebuilt.compared,
            events=rebuilt.events,
            filling_seconds=rebuilt.filling_seconds,
            swap_seconds=taken,
        )


def _alike(fillings: Collection[ViewBuild]) -> list[list[ViewBuild]]:
    """The fillings that are equally far together: one reading of the log is enough for them."""
    groups: list[list[ViewBuild]] = []
    for filling in fillings:
        for group in groups:
            if _far(group[0]) == _far(filling):
                group.append(filling)
                break
        else:
            groups.append([filling])
    return groups


def _far(filling: ViewBuild) -> tuple[object, ...]:
    return filling.until, filling.shares, filling.partitions


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Does a step as soon as no projector is in its way."""
    pause = 0.002
    while True:
        heed_cancellation()
        try:
            return await step()
        except PositionMoved:
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, 2 * pause)
