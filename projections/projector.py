"""The projector: every view, brought forward by its store's lane, from one reading of the log, in the buckets that it holds."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress

import psycopg
import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from infrastructure.event_log.reader import EventReader
from infrastructure.observability.metrics import Metrics
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.append_notifications import AppendNotifications
from projections.context_view import ContextView
from projections.feed import Feed
from projections.leases import RENEW_SECONDS, Leases
from projections.mongo_views import MongoViews
from projections.view_positions import ViewPositions
from projections.view_updater import POLL_SECONDS, ViewUpdater
from projections.views.catalog import ALL_VIEWS
from projections.views.view_position import ViewPosition

_ARRIVAL_SECONDS = 0.01

log = structlog.get_logger(__name__)


class Projector:
    """Moves views forward while it runs. Any number of runners share the work; all are to have the same views."""

    def __init__(
        self,
        *,
        postgres_url: str,
        pool: Pool,
        database: Database,
        redis: Redis,
        metrics: Metrics,
        views: Collection[str] = ALL_VIEWS,
    ) -> None:
        reader = EventReader(pool)
        self._positions = ViewPositions(database)
        self._feed = Feed(reader)
        self._bell = AppendNotifications(postgres_url)
        self._metrics = metrics
        self._views = tuple(views)
        self._pool = pool
        self._held: Mapping[int, int] = {}
        self._mongo = MongoViews(database)
        sinks = (self._mongo, ContextView(redis, reader, database))
        self._lanes = [
            ViewUpdater(sink, views, positions=self._positions, feed=self._feed, bell=self._bell, metrics=metrics)
            for sink in sinks
            if not set(views).isdisjoint(sink.views)
        ]

    @property
    def ready(self) -> bool:
        """Whether it reaches all its stores, and no view is stuck."""
        return all(lane.ready for lane in self._lanes)

    @property
    def places(self) -> dict[str, ViewPosition]:
        """Where its views stand, as far as it knows."""
        return {view: place for lane in self._lanes for view, place in lane.places.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`, through any outage; batches that were begun are finished first, then the buckets given back."""
        leases = Leases(self._pool, self._mongo.holder)
        async with asyncio.TaskGroup() as group:
            aside = [group.create_task(it) for it in (self._bell.listen(), self._watch_head(), self._hold(leases))]
            lanes = [group.create_task(lane.run(stop)) for lane in self._lanes]
            await stop.wait()
            self._bell.ring()
            await asyncio.wait(lanes)
            for task in aside:
                task.cancel()
        with suppress(psycopg.Error):
            await leases.give_back()
        with suppress(PyMongoError):
            await self._mongo.close()

    async def catch_up(self, until: int | None = None) -> None:
        """Runs until every view is live and shows `until`, by default the log's end as it is now. Raises psycopg.Error."""
        target = await self._feed.last_position() if until is None else until
        stop = asyncio.Event()
        running = asyncio.create_task(self.run(stop))
        arrived = asyncio.create_task(self._arrival(target))
        try:
            await asyncio.wait({running, arrived}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            arrived.cancel()
            await running

    async def _arrival(self, target: int) -> None:
        """Returns when every view is live and shows `target`, whoever brought it there."""
        while True:
            with suppress(PyMongoError):
                standings = await self._positions.statuses(self._views)
                shown = [it for it in standings.values() if it.state == "live" and it.position >= target]
                if len(shown) == len(self._views):
                    return
            await asyncio.sleep(_ARRIVAL_SECONDS)

    async def _hold(self, leases: Leases) -> None:
        """Keeps this projector's part of the buckets. While Postgres is away there is nothing to read either."""
        while True:
            try:
                held = await leases.renew(
                    {partition: it for lane in self._lanes for partition, it in lane.outdone.items()}
                )
            except psycopg.Error as error:
                log.warning("leases_wait", error_type=type(error).__name__)
            else:
                if held.silent or held.leases != self._held:
                    log.info("buckets_held", partitions=sorted(held.leases), from_silent=len(held.silent))
                    for lane in self._lanes:
                        lane.hold(held)
                    self._bell.ring()
                self._held = held.leases
            await asyncio.sleep(RENEW_SECONDS)

    async def _watch_head(self) -> None:
        """Keeps the metrics of the log's end, however far behind the views are, and of what is parked."""
        while True:
            self._metrics.projection_parked.set(len(set().union(*(place.parked for place in self.places.values()))))
            try:
                self._metrics.projection_head.set(await self._feed.last_position())
            except psycopg.Error as error:
                log.debug("head_unknown", error_type=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
