"""The query API, which serves GET and HEAD. `create_app` makes it; `python -m queries.main` serves it alone."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from starlette.applications import Starlette

from context.assembly import SharedContexts
from context.learnt_models import LearntModels
from context.models import Models
from context.snapshot_store import snapshot_lookup
from infrastructure.access.key_store import KeyStore
from infrastructure.contents.file_store import FileStore
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.migrate import DataIsNewer, check_migrations, when_reachable
from infrastructure.http.app import health_router, make_app
from infrastructure.http.connections import Connections
from infrastructure.http.door import Authenticator, authenticator_of
from infrastructure.http.limits import limits_check
from infrastructure.http.readiness import Check
from infrastructure.http.serve import serve
from infrastructure.http.stream_pages import StreamPages
from infrastructure.http.web_pages import WebPages
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from queries import (
    chat_completions,
    chat_messages,
    context,
    conversation_list,
    conversation_responses,
    conversations,
    events,
    feedback,
    files,
    health,
    items,
    keys,
    models,
    projections_status,
    response_context,
    responses,
    search,
    shares,
    tree,
    usage,
)
from queries.consistency import Consistency
from queries.event_stream import EventStreams
from queries.fork_origins import ForkOrigins
from queries.log_access import LogAccess
from queries.partition_watch import PartitionWatch
from queries.query_context import ProcessDependencies
from queries.view_reports import ViewReports
from replies.following import ReplyStreams
from replies.live_reader import LiveReader
from replies.model_watch import ModelWatch
from replies.provider.provider import ModelProvider

RESOURCES = (
    conversation_list,
    conversations,
    items,
    tree,
    conversation_responses,
    events,
    shares,
    context,
    response_context,
    responses,
    chat_completions,
    chat_messages,
    models,
    feedback,
    files,
    search,
    usage,
    keys,
    projections_status,
)

STREAM_CONNECTIONS = 3
log = structlog.get_logger(__name__)

MONGODB_TIMEOUT_SECONDS = 5.0
POOL_CLOSE_TIMEOUT_SECONDS = 1.0


@asynccontextmanager
async def open_dependencies(
    settings: Settings, shutdown: threading.Event, connections: Connections | None = None
) -> AsyncIterator[ProcessDependencies]:
    """No store has to be up yet."""
    async with AsyncExitStack() as stack:
        pool = make_pool(settings.postgres_url)
        await pool.open(wait=False)
        stack.push_async_callback(pool.close, POOL_CLOSE_TIMEOUT_SECONDS)
        write_pool = make_pool(settings.postgres_url, max_size=1, read_only=False)
        await write_pool.open(wait=False)
        stack.push_async_callback(write_pool.close, POOL_CLOSE_TIMEOUT_SECONDS)
        log = LogAccess(pool)
        stack.push_async_callback(log.close)
        # Streams have connections of their own, so that they cannot take the connections of other reads.
        stream_pool = make_pool(settings.postgres_url, max_size=STREAM_CONNECTIONS)
        await stream_pool.open(wait=False)
        stack.push_async_callback(stream_pool.close, POOL_CLOSE_TIMEOUT_SECONDS)
        stream_log = LogAccess(stream_pool)
        stack.push_async_callback(stream_log.close)
        watch = ConversationWatch(stream_log.head_of_each, shutdown)
        stack.push_async_callback(watch.close)
        partition_watch = PartitionWatch(log)
        partition_watch.start()
        stack.callback(partition_watch.stop)
        mongo = mongodb.connect(settings, answer_seconds=MONGODB_TIMEOUT_SECONDS)
        stack.push_async_callback(mongo.close)
        views = mongodb.database(mongo, settings)
        redis_client = redis.connect(settings)
        stack.push_async_callback(redis_client.aclose)
        pages = StreamPages()
        live_reader = LiveReader(redis_client, pages)
        stack.push_async_callback(live_reader.close)
        models = Models(settings)
        provider = ModelProvider(settings, on_list=models.set_listed)
        stack.push_async_callback(provider.close)
        learnt = LearntModels(pool, settings.openai_base_url, models.set_learnt)
        model_watch = ModelWatch(provider, models, learnt)
        model_watch.open()
        stack.callback(model_watch.close)
        contexts = SharedContexts(models, snapshot_lookup(redis_client))
        consistency = Consistency(log, views)
        yield ProcessDependencies(
            log=log,
            views=views,
            redis=redis_client,
            provider=provider,
            models=models,
            consistency=consistency,
            view_reports=ViewReports(log, consistency),
            shared_contexts=contexts,
            partition_watch=partition_watch,
            write_pool=write_pool,
            fork_origins=ForkOrigins(),
            api_keys=KeyStore(pool),
            files=FileStore(pool),
            stream_log=stream_log,
            event_streams=EventStreams(stream_log, watch, pages, events.events_json, shutdown),
            reply_streams=ReplyStreams(live_reader, watch, pages, shutdown),
            connections=connections or Connections(),
            comment_seconds=settings.comment_seconds,
        )


def create_app(
    settings: Settings,
    metrics: Metrics,
    shutdown: threading.Event,
    connections: Connections | None = None,
    *,
    authenticator: Authenticator | None = None,
) -> Starlette:
    """When `shutdown` is set, the streams end. The app sets it if the data is newer than this code."""
    checks = dict[str, Check]()
    limiter = Limiter(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_dependencies(settings, shutdown, connections) as dependencies:
            app.state.dependencies = dependencies
            checks.update({**health.checks(dependencies), **limits_check(limiter)})
            checking = asyncio.create_task(_refuse_newer_data(settings.postgres_url, shutdown))
            yield
            checking.cancel()

    ready = health_router(lambda: checks, needed=health.REQUIRED)
    routers = [ready, *(resource.router for resource in RESOURCES)]
    return make_app(
        "Conversation Store: queries",
        routers,
        lifespan=lifespan,
        metrics=metrics,
        web_pages=WebPages.of(settings),
        connections=connections,
        authenticator=authenticator or authenticator_of(settings),
        limiter=limiter,
    )


async def _refuse_newer_data(postgres_url: str, shutdown: threading.Event) -> None:
    try:
        await when_reachable(check_migrations, postgres_url)
    except DataIsNewer as error:
        log.critical("data_is_newer", reason=str(error))
        shutdown.set()


def main() -> None:
    settings = Settings()
    configure_logging("query-api", settings.log_level, settings.log_format, settings.secrets)
    shutdown, metrics, connections = threading.Event(), Metrics(), Connections()
    serve(create_app(settings, metrics, shutdown, connections), settings, metrics, shutdown, connections)


if __name__ == "__main__":
    main()
