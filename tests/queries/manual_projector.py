"""The real projector, which runs only when a test calls it."""

import asyncio
from collections.abc import Collection

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.mongo_views import MongoViews
from projections.projector import build_projector
from projections.retry_moved import retry_while_moved
from projections.views.catalog import MONGO_VIEWS


class ManualProjector:
    def __init__(self, settings: Settings, views: Collection[str] = MONGO_VIEWS) -> None:
        self._pool = make_pool(settings.postgres_url, max_size=4)
        self._mongo = mongodb.connect(settings)
        self._redis = redis.connect(settings)
        self._projector = build_projector(
            postgres_url=settings.postgres_url,
            pool=self._pool,
            database=mongodb.database(self._mongo, settings),
            redis=self._redis,
            metrics=Metrics(),
            views=views,
        )
        self.views = mongodb.database(self._mongo, settings)

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()
        await self._mongo.close()
        await self._redis.aclose()

    async def catch_up(self) -> None:
        """Returns once the views show everything that is committed."""
        async with asyncio.timeout(20):
            await self._projector.catch_up()

    async def run(self, stop: asyncio.Event) -> None:
        await self._projector.run(stop)

    async def reset_view(self, view: str, target: int = 0) -> None:
        """Empties a view. The view is `rebuilding` until it reaches the log position `target`."""
        await retry_while_moved(lambda: MongoViews(self.views).start_over(view, target))
