"""The stores of a projector test."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from context.snapshot_from_log import snapshot_from_log
from context.snapshot_store import read_snapshot
from context.snapshots import KEY_PREFIX, Snapshot, snapshot_keys
from infrastructure.event_log.feed import Batch
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.context_view import ContextView
from projections.fold import fold
from projections.mongo_views import MongoViews
from projections.projector import Projector, build_projector
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS
from projections.views.partitions import PARTITIONS
from projections.views.view_position import ViewPosition, ViewStatus

TIMEOUT_SECONDS = 30.0


class World:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = make_pool(settings.postgres_url, max_size=4)
        self.client = mongodb.connect(settings)
        self.database = mongodb.database(self.client, settings)
        self.redis = redis.connect(settings)
        self.reader = EventReader(self.pool)
        self.positions = ViewPositions(self.database)

    async def close(self) -> None:
        await self.pool.close()
        await self.client.close()
        await self.redis.aclose()

    def projector(
        self, views: Collection[str] = ALL_VIEWS, listens_to: str | None = None, metrics: Metrics | None = None
    ) -> Projector:
        return build_projector(
            postgres_url=listens_to or self.settings.postgres_url,
            pool=self.pool,
            database=self.database,
            redis=self.redis,
            metrics=metrics or Metrics(),
            views=views,
        )

    async def catch_up(self, views: Collection[str] = ALL_VIEWS) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.projector(views).catch_up()

    async def until(self, condition: Callable[[], Awaitable[object]], seconds: float = TIMEOUT_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110  # another process changes it
                await asyncio.sleep(0.01)

    async def caught_up(self, views: Collection[str] = ALL_VIEWS) -> bool:
        """Whether these views are live and show the whole log."""
        end = await self.reader.end()
        positions = await self.positions.load(views)
        return len(positions) == len(views) * PARTITIONS and all(
            position.is_live and position.position == end.position and position.is_of(end.incarnation)
            for position in positions
        )

    async def events(self) -> list[Recorded]:
        return await self.reader.after(0, limit=1_000_000)

    async def batch(self, after: int = 0) -> Batch:
        return Batch(after, [*await self.reader.after(after, limit=1_000_000)])

    async def documents(self) -> dict[str, dict[str, Any]]:
        statuses = await self.statuses()
        collections = {view: statuses[view].collection if view in statuses else view for view in MONGO_VIEWS}
        return {
            view: {document["_id"]: document async for document in self.database[name].find()}
            for view, name in collections.items()
        }

    async def expected_documents(self) -> dict[Any, dict[str, Any]]:
        return fold(await self.events())

    async def snapshots(self) -> dict[str, Snapshot]:
        stored: dict[str, Snapshot] = {}
        async for name in self.redis.scan_iter(match=f"{KEY_PREFIX}*"):
            _, tenant, conversation_id = name.decode().split(":")
            snapshot = await read_snapshot(self.redis, tenant, conversation_id)
            if snapshot is not None:
                stored[name.decode()] = snapshot
        return stored

    async def snapshots_by_log(self) -> dict[str, Snapshot]:
        """What Redis must hold if it lost nothing."""
        last = {(recorded.tenant, recorded.conversation_id): recorded.version for recorded in await self.events()}
        snapshots = {
            snapshot_keys(tenant, conversation_id)[0]: await snapshot_from_log(self.reader, conversation_id, version)
            for (tenant, conversation_id), version in last.items()
        }
        return {key: snapshot for key, snapshot in snapshots.items() if snapshot is not None}

    async def view_positions(self, views: Collection[str] = MONGO_VIEWS) -> list[ViewPosition]:
        return await self.positions.load(views)

    async def start_over(self, view: str, target: int) -> None:
        """The view is `rebuilding` until it reaches `target`."""
        if view in MONGO_VIEWS:
            await MongoViews(self.database).start_over(view, target)
        else:
            await ContextView(self.redis, self.reader, self.database).start_over(view, target)

    async def statuses(self) -> dict[str, ViewStatus]:
        return await self.positions.statuses(ALL_VIEWS)

    async def matches_log_but_may_lack_snapshots(self) -> bool:
        snapshots, expected = await self.snapshots(), await self.snapshots_by_log()
        return await self.documents() == await self.expected_documents() and all(
            expected[name] == snapshot for name, snapshot in snapshots.items()
        )

    async def matches_log(self) -> bool:
        """Whether views and snapshots equal the log. No snapshot may be missing."""
        return (
            await self.documents() == await self.expected_documents()
            and await self.snapshots() == await self.snapshots_by_log()
        )
