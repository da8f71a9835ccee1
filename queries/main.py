"""The query side's process: makes what its routes read from, and serves them. `create_app` is also what the gateway mounts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from fastapi import FastAPI
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from infrastructure.http.app import Check, health_router, make_app
from infrastructure.logging import configure_logging
from infrastructure.metrics import Metrics
from infrastructure.model import Model
from infrastructure.postgres import make_pool
from infrastructure.settings import Settings
from projections.read_models import Document
from queries import conversations, events, health, items, models, projections_status, responses
from queries.caller import Sources
from queries.consistency import Consistency
from queries.log_access import LogAccess

GRACEFUL_SECONDS = 5
_OPERATION_MILLISECONDS = 5_000
_SELECTION_MILLISECONDS = 2_000
_REDIS_SECONDS = 2.0


@asynccontextmanager
async def open_sources(settings: Settings) -> AsyncIterator[Sources]:
    """What the routes read from. No store has to be there yet: each is connected to when it is first needed."""
    async with AsyncExitStack() as stack:
        pool = make_pool(settings.postgres_url)
        await pool.open()
        stack.push_async_callback(pool.close, 1.0)
        log = LogAccess(pool)
        stack.push_async_callback(log.close)
        mongo: AsyncMongoClient[Document] = AsyncMongoClient(
            settings.mongodb_url,
            serverSelectionTimeoutMS=_SELECTION_MILLISECONDS,
            timeoutMS=_OPERATION_MILLISECONDS,
        )
        stack.push_async_callback(mongo.close)
        views = mongo[settings.mongodb_database]
        redis = Redis.from_url(settings.redis_url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS)
        stack.push_async_callback(redis.aclose)
        model = Model(settings)
        stack.push_async_callback(model.close)
        yield Sources(log, views, redis, model, Consistency(log, views))


def create_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """The query API. It serves nothing but GET and HEAD."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_sources(settings) as sources:
            app.state.sources = sources
            yield

    def checks() -> Mapping[str, Check]:
        return health.checks(app.state.sources)

    routers = [
        conversations.router,
        items.router,
        events.router,
        responses.router,
        models.router,
        projections_status.router,
        health_router(metrics, checks, health.NEEDED),
    ]
    app = make_app("Conversation Store: queries", routers, lifespan=lifespan, metrics=metrics)
    return app  # noqa: RET504 - `checks` needs its name


def main() -> None:
    settings = Settings()
    configure_logging("conversation-store-queries", settings.log_level, settings.log_format)
    uvicorn.run(
        create_app(settings, Metrics()),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )


if __name__ == "__main__":
    main()
