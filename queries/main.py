"""The query API of one process: nothing but GET and HEAD. `create_app` wires it; `python -m queries.main` serves it alone."""

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette

from context.assembly import Contexts
from context.models import Models
from context.snapshot_store import snapshot_lookup
from infrastructure.http.app import Check, health_router, make_app
from infrastructure.http.serve import serve
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from queries import (
    context,
    conversations,
    events,
    health,
    items,
    models,
    projections_status,
    response_context,
    responses,
    usage,
)
from queries.consistency import Consistency
from queries.log_access import LogAccess, PatientReader
from queries.query_context import Sources
from replies.provider.provider import ModelProvider

RESOURCES = (conversations, items, events, context, response_context, responses, models, usage, projections_status)

MONGODB_SECONDS = 5.0
POOL_CLOSE_SECONDS = 1.0


@asynccontextmanager
async def open_sources(settings: Settings, shutdown: threading.Event) -> AsyncIterator[Sources]:
    """What the routes read from. No store has to be there yet: each is connected to when it is first needed."""
    async with AsyncExitStack() as stack:
        pool = make_pool(settings.postgres_url)
        await pool.open(wait=False)
        stack.push_async_callback(pool.close, POOL_CLOSE_SECONDS)
        log = LogAccess(pool)
        stack.push_async_callback(log.close)
        mongo = mongodb.connect(settings, answer_seconds=MONGODB_SECONDS)
        stack.push_async_callback(mongo.close)
        views = mongodb.database(mongo, settings)
        snapshots = redis.connect(settings)
        stack.push_async_callback(snapshots.aclose)
        provider = ModelProvider(settings)
        stack.push_async_callback(provider.close)
        models = Models(settings)
        contexts = Contexts(PatientReader(log), models, snapshot_lookup(snapshots))
        yield Sources(
            log=log,
            views=views,
            redis=snapshots,
            provider=provider,
            models=models,
            consistency=Consistency(log, views),
            contexts=contexts,
            shutdown=shutdown,
        )


def create_app(settings: Settings, metrics: Metrics, shutdown: threading.Event) -> Starlette:
    """The app; its lifespan opens and closes all it needs. It starts without the stores. `shutdown` ends its streams."""
    checks: dict[str, Check] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_sources(settings, shutdown) as sources:
            app.state.sources = sources
            checks.update(health.checks(sources))
            yield

    ready = health_router(metrics, lambda: checks, needed=health.NEEDED)
    routers = [ready, *(resource.router for resource in RESOURCES)]
    return make_app("Conversation Store: queries", routers, lifespan=lifespan, metrics=metrics)


def main() -> None:
    """Serves this side alone, on HOST and PORT."""
    settings = Settings()
    configure_logging("query-api", settings.log_level, settings.log_format)
    shutdown = threading.Event()
    serve(create_app(settings, Metrics(), shutdown), settings, shutdown)


if __name__ == "__main__":
    main()
