"""The command API. `create_app` makes the app. `python -m commands.main` serves it alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from starlette.applications import Starlette

from commands import (
    branches,
    chat_completions,
    chat_stored,
    compact_response,
    compaction,
    conversations,
    feedback,
    files,
    forks,
    import_conversations,
    items,
    keys,
    pins,
    queued_replies,
    response_socket,
    responses,
    restored_items,
    shares,
)
from commands.command_route import ProcessDependencies
from commands.open_sockets import OpenSockets, SocketLimits
from commands.unfinished_histories import UnfinishedHistories
from context.assembly import SharedContexts
from context.learnt_models import LearntModels
from context.models import Models
from context.snapshot_store import snapshot_lookup
from infrastructure.access.key_store import KeyStore
from infrastructure.contents.collection import ContentCollector
from infrastructure.contents.file_store import FileStore
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.migrate import DataIsNewer, migrate, when_reachable
from infrastructure.event_log.reader import EventReader
from infrastructure.http.app import health_router, make_app
from infrastructure.http.connections import Connections
from infrastructure.http.door import Authenticator, authenticator_of
from infrastructure.http.large_bodies import LargeBodies
from infrastructure.http.limits import limits_check
from infrastructure.http.readiness import Check
from infrastructure.http.serve import serve
from infrastructure.http.stream_pages import StreamPages
from infrastructure.http.web_pages import WebPages
from infrastructure.ids import mint_uuid
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import Pool, make_pool
from replies.active_replies import ActiveReplies
from replies.following import ReplyStreams
from replies.leases import Orphan, ReplyLeases
from replies.live_events import LiveWriter
from replies.live_reader import LiveReader
from replies.model_watch import ModelWatch
from replies.orphaned_replies import OrphanedReplies
from replies.provider.provider import ModelProvider
from replies.queued_reply import ReplyQueue
from replies.running_reply import ReplyServices
from replies.title_writer import TitleWriter

log = structlog.get_logger(__name__)

RESOURCES = (
    # The most frequent requests come first, because each route before them takes about 2 us.
    items,
    responses,
    chat_completions,
    conversations,
    feedback,
    files,
    forks,
    branches,
    pins,
    restored_items,
    shares,
    compaction,
    compact_response,
    chat_stored,
    import_conversations,
    keys,
)


def create_app(
    settings: Settings,
    metrics: Metrics,
    shutdown: threading.Event,
    connections: Connections | None = None,
    *,
    socket_limits: SocketLimits | None = None,
    authenticator: Authenticator | None = None,
) -> Starlette:
    """The app. It also starts while Postgres is down, and then answers writes with 503.

    `authenticator`: shared with another app of this process. `shutdown`: ends streams and WebSockets. The
    app sets it if the data is newer than this code.
    """
    checks: dict[str, Check] = {}
    limiter = Limiter(settings, metrics, counts_tokens=True)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pool = make_pool(settings.postgres_url)
        await pool.open(wait=False)
        # Leases must be renewed in time, even when many requests wait for a connection.
        lease_pool = make_pool(settings.postgres_url, max_size=2, read_only=False)
        await lease_pool.open(wait=False)
        key_pool = make_pool(settings.postgres_url, max_size=1, read_only=False)
        await key_pool.open(wait=False)
        file_pool = make_pool(settings.postgres_url, max_size=2, read_only=False)
        await file_pool.open(wait=False)
        snapshot_redis = redis.connect(settings, answer_seconds=0.5)
        following_redis = redis.connect(settings)
        live_redis = redis.connect(settings, answer_seconds=None)
        reader = EventReader(pool)
        models, provider, learnt, model_watch = _models(settings, metrics, key_pool)
        keep_keys = timedelta(hours=settings.idempotency_hours)
        process_id = mint_uuid()
        events_log = EventLog(settings.postgres_url, metrics, keep_keys=keep_keys, owner=process_id)
        events_log.open()
        titles = TitleWriter(events_log, provider, models, metrics, enabled=settings.titles == "auto")
        live = LiveWriter(live_redis)
        live.start()
        leases = ReplyLeases(lease_pool, process_id)
        active_replies = ActiveReplies(
            leases,
            OrphanedReplies(leases, events_log, reader, snapshot_redis, _take_over(app, leases)),
            reader.head_of_each,
        )
        pages = StreamPages()
        live_reader = LiveReader(following_redis, pages)
        watch = ConversationWatch(reader.head_of_each, shutdown)
        sockets = OpenSockets(metrics, shutdown, socket_limits)
        sockets.open()
        app.state.dependencies = ProcessDependencies(
            log=events_log,
            reader=reader,
            provider=provider,
            models=models,
            learnt=learnt,
            shared_contexts=SharedContexts(models, snapshot_lookup(snapshot_redis)),
            keep_keys=keep_keys,
            reply_services=ReplyServices(
                log=events_log,
                reader=reader,
                provider=provider,
                models=models,
                live=live,
                metrics=metrics,
                titles=titles,
            ),
            active_replies=active_replies,
            reply_streams=ReplyStreams(live_reader, watch, pages, shutdown),
            reply_queue=ReplyQueue(watch, active_replies.cancel),
            sockets=sockets,
            api_keys=KeyStore(key_pool),
            files=FileStore(pool, file_pool),
            large_bodies=LargeBodies(),
            limiter=limiter,
            comment_seconds=settings.comment_seconds,
            tenant_defaults=settings.tenant_defaults,
            chat_completions_store=settings.chat_completions_store,
        )
        active_replies.open()
        checks.update(_checks(reader, events_log, active_replies, provider, limiter))
        migrating = asyncio.create_task(_migrate(settings.postgres_url, shutdown))
        sweeping = asyncio.create_task(UnfinishedHistories(pool, events_log).keep_sweeping())
        collecting = asyncio.create_task(ContentCollector(file_pool).keep_collecting())
        try:
            yield
        finally:
            for task in (migrating, sweeping, collecting):
                task.cancel()
            model_watch.close()
            sockets.close()
            for part in (active_replies, titles, live_reader, watch, live, events_log, provider):
                await part.close()
            for client in (live_redis, snapshot_redis, following_redis):
                await client.aclose()
            for open_pool in (file_pool, key_pool, lease_pool, pool):
                await open_pool.close()

    health = health_router(lambda: checks, needed=frozenset({"postgres", "log_writable"}))
    return make_app(
        "Conversation Store: commands",
        [*(resource.router for resource in RESOURCES), health],
        sockets=response_socket.sockets,
        lifespan=lifespan,
        metrics=metrics,
        web_pages=WebPages.of(settings),
        connections=connections,
        authenticator=authenticator or authenticator_of(settings),
        limiter=limiter,
    )


def _take_over(app: Starlette, leases: ReplyLeases) -> Callable[[Orphan], Awaitable[bool]]:
    """The function that takes over a reply. The app's dependencies do not exist yet when the function is made."""

    async def take_over(orphan: Orphan) -> bool:
        return await queued_replies.take_over(app.state.dependencies, leases, orphan)

    return take_over


def _models(settings: Settings, metrics: Metrics, pool: Pool) -> tuple[Models, ModelProvider, LearntModels, ModelWatch]:
    """Makes the objects that know the models. `pool` must be able to write."""
    models = Models(settings)
    provider = ModelProvider(settings, metrics, on_list=models.set_listed)
    learnt = LearntModels(pool, settings.openai_base_url, models.set_learnt)
    watch = ModelWatch(provider, models, learnt)
    watch.open()
    return models, provider, learnt, watch


def _checks(
    reader: EventReader,
    events_log: EventLog,
    active_replies: ActiveReplies,
    provider: ModelProvider,
    limiter: Limiter,
) -> Mapping[str, Check]:
    async def postgres() -> bool:
        return await reader.last_position() >= 0

    async def log_writable() -> bool:
        # A lease is a row in the same database, renewed twice a second.
        return active_replies.is_lease_renewed and not events_log.is_failing

    async def model() -> bool:
        return bool(await provider.list_models())

    checks: dict[str, Check] = {"postgres": postgres, "log_writable": log_writable, **limits_check(limiter)}
    return {**checks, "model": model} if provider.configured else checks


async def _migrate(postgres_url: str, shutdown: threading.Event) -> None:
    """Migrates when Postgres is reachable. Sets `shutdown` if the data is newer than this code."""
    try:
        applied = await when_reachable(migrate, postgres_url)
    except DataIsNewer as error:
        log.critical("data_is_newer", reason=str(error))
        shutdown.set()
    else:
        log.info("migrated", applied=applied)


def main() -> None:
    settings = Settings()
    configure_logging("command-api", settings.log_level, settings.log_format, settings.secrets)
    shutdown, metrics, connections = threading.Event(), Metrics(), Connections()
    serve(create_app(settings, metrics, shutdown, connections), settings, metrics, shutdown, connections)


if __name__ == "__main__":
    main()
