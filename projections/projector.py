"""The projector: runs the view updaters for the partitions whose leases it holds."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

import psycopg
import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.feed import AppendNotifications, Feed
from infrastructure.event_log.reader import EventReader
from infrastructure.observability.metrics import Metrics
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.context_view import ContextView
from projections.leases import RENEW_SECONDS, HeldPartitions, Leases
from projections.mongo_views import MongoViews
from projections.view_indexes import check_indexes
from projections.view_positions import ViewPositions
from projections.view_updater import POLL_SECONDS, ViewUpdater
from projections.views.catalog import ALL_VIEWS
from projections.views.partitions import PARTITIONS
from projections.views.view_position import ViewPosition

_CATCH_UP_POLL_SECONDS = 0.01

log = structlog.get_logger(__name__)


class Projector:
    """Up to PARTITIONS projectors share the work. All projectors must update the same views."""

    def __init__(
        self,
        *,
        updaters: Sequence[ViewUpdater],
        mongo_views: MongoViews,
        database: Database,
        pool: Pool,
        positions: ViewPositions,
        feed: Feed,
        notifications: AppendNotifications,
        metrics: Metrics,
        views: Collection[str],
    ) -> None:
        self._updaters = updaters
        self._mongo_views = mongo_views
        self._database = database
        self._pool = pool
        self._positions = positions
        self._feed = feed
        self._notifications = notifications
        self._metrics = metrics
        self._views = tuple(views)
        self._held_partitions: HeldPartitions | None = None

    @property
    def is_ready(self) -> bool:
        return all(self.checks.values())

    @property
    def checks(self) -> dict[str, bool]:
        """The checks of `/health/ready`. A projector whose share is 0 passes `partitions_held`."""
        partitions = self._held_partitions
        return {
            "views": all(updater.is_ready for updater in self._updaters),
            "partitions_held": partitions is not None and (bool(partitions.leases) or partitions.share == 0),
        }

    @property
    def view_positions(self) -> dict[str, ViewPosition]:
        """The positions by `key`."""
        return {key: position for updater in self._updaters for key, position in updater.view_positions.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`, through any outage. Then finishes the batches it has begun, and releases its partitions.

        Raises an ExceptionGroup with DataIsNewer if newer code built one of the views.
        """
        leases = Leases(self._pool, self._mongo_views.session_id)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(task)
                for task in (
                    self._notifications.listen(),
                    self._watch_log_end(),
                    self._renew_leases(leases),
                    check_indexes(self._database),
                )
            ]
            updating = [group.create_task(updater.run(stop)) for updater in self._updaters]
            await stop.wait()
            self._notifications.notify()
            await asyncio.wait(updating)
            for task in background:
                task.cancel()
        with suppress(psycopg.Error):
            await leases.release()
        with suppress(PyMongoError):
            await self._mongo_views.close()

    async def catch_up(self, until: int | None = None) -> None:
        """Runs until every view is live and shows the log up to `until`. Default: the log's current end."""
        end = await self._feed.end()
        target = end.position if until is None else until
        stop = asyncio.Event()
        running = asyncio.create_task(self.run(stop))
        caught_up = asyncio.create_task(self._caught_up(target, end.incarnation))
        try:
            await asyncio.wait({running, caught_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            caught_up.cancel()
            await running

    async def _caught_up(self, target: int, incarnation: str) -> None:
        """Reads the positions in MongoDB, because other projectors may have advanced some views."""
        while True:
            with suppress(PyMongoError):
                positions = await self._positions.load(self._views)
                shown = [
                    each for each in positions if each.is_live and each.position >= target and each.is_of(incarnation)
                ]
                if len(shown) == PARTITIONS * len(self._views):
                    return
            raise_if_cancelled()
            await asyncio.sleep(_CATCH_UP_POLL_SECONDS)

    async def _renew_leases(self, leases: Leases) -> None:
        """If a renewal fails, the projector keeps its partitions, because without Postgres it cannot read events either."""
        while True:
            newer_leases = {
                partition: lease for updater in self._updaters for partition, lease in updater.newer_leases.items()
            }
            try:
                held_partitions = await leases.renew(newer_leases)
            except psycopg.Error as error:
                log.warning("lease_renewal_failed", error_type=type(error).__name__)
            else:
                before = self._held_partitions.leases if self._held_partitions is not None else {}
                if held_partitions.dead_holders or held_partitions.leases != before:
                    log.info(
                        "partitions_held",
                        partitions=sorted(held_partitions.leases),
                        dead_holders=len(held_partitions.dead_holders),
                    )
                    for updater in self._updaters:
                        updater.hold(held_partitions)
                    self._notifications.notify()
                self._held_partitions = held_partitions
            raise_if_cancelled()
            await asyncio.sleep(RENEW_SECONDS)

    async def _watch_log_end(self) -> None:
        while True:
            parked = set().union(*(position.parked for position in self.view_positions.values()))
            self._metrics.projection_parked.set(len(parked))
            try:
                self._metrics.projection_head.set((await self._feed.end()).position)
            except psycopg.Error as error:
                log.debug("log_end_unknown", error_type=type(error).__name__)
            raise_if_cancelled()
            await asyncio.sleep(POLL_SECONDS)


def build_projector(
    *,
    postgres_url: str,
    pool: Pool,
    database: Database,
    redis: Redis,
    metrics: Metrics,
    views: Collection[str] = ALL_VIEWS,
) -> Projector:
    """The caller closes the connections."""
    reader = EventReader(pool)
    feed, positions, notifications = Feed(reader), ViewPositions(database), AppendNotifications(postgres_url)
    mongo_views = MongoViews(database)
    updaters = [
        ViewUpdater(store, views, positions=positions, feed=feed, notifications=notifications, metrics=metrics)
        for store in (mongo_views, ContextView(redis, reader, database))
        if not set(views).isdisjoint(store.views)
    ]
    return Projector(
        updaters=updaters,
        mongo_views=mongo_views,
        database=database,
        pool=pool,
        positions=positions,
        feed=feed,
        notifications=notifications,
        metrics=metrics,
        views=views,
    )
