"""The projector: every view, brought forward by its store's lane, from one reading of the log."""

import asyncio
from collections.abc import Collection

import psycopg
import structlog
from redis.asyncio import Redis

from infrastructure.event_log.reader import EventReader
from infrastructure.metrics import Metrics
from infrastructure.mongodb import Database
from projections.bell import Bell
from projections.context_view import ContextView
from projections.feed import Feed
from projections.lane import POLL_SECONDS, Lane
from projections.mongo import MongoViews
from projections.positions import Place, Positions
from projections.read_models import ALL_VIEWS

log = structlog.get_logger(__name__)


class Runner:
    """Moves views forward while it runs. Any number of runners may have the same views: each batch is written once."""

    def __init__(
        self,
        *,
        postgres_url: str,
        reader: EventReader,
        database: Database,
        redis: Redis,
        metrics: Metrics,
        views: Collection[str] = ALL_VIEWS,
    ) -> None:
        positions = Positions(database)
        self._feed = Feed(reader)
        self._bell = Bell(postgres_url)
        self._metrics = metrics
        sinks = (MongoViews(database), ContextView(redis, reader, positions))
        self._lanes = [
            Lane(sink, views, positions=positions, feed=self._feed, bell=self._bell, metrics=metrics)
            for sink in sinks
            if not set(views).isdisjoint(sink.views)
        ]

    @property
    def ready(self) -> bool:
        """Whether it reaches all its stores, and no view is stuck."""
        return all(lane.ready for lane in self._lanes)

    @property
    def places(self) -> dict[str, Place]:
        """Where its views stand, as far as it knows."""
        return {view: place for lane in self._lanes for view, place in lane.places.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`, through any outage; batches that were begun are finished first."""
        async with asyncio.TaskGroup() as group:
            aside = [group.create_task(self._bell.listen()), group.create_task(self._watch_head())]
            lanes = [group.create_task(lane.run(stop)) for lane in self._lanes]
            await stop.wait()
            self._bell.ring()
            await asyncio.wait(lanes)
            for task in aside:
                task.cancel()

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
        for lane in self._lanes:
            await lane.arrival(target)

    async def _watch_head(self) -> None:
        """Keeps the metrics of the log's end, however far behind the views are, and of what is parked."""
        while True:
            self._metrics.projection_parked.set(len(set().union(*(place.parked for place in self.places.values()))))
            try:
                self._metrics.projection_head.set(await self._feed.last_position())
            except psycopg.Error as error:
                log.debug("head_unknown", error_type=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
