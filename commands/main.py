"""The command API of one process: everything but GET. `create_app` wires it; `python -m commands.main` serves it alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import structlog
from fastapi import FastAPI

from commands import compact_response, compaction, conversations, import_conversations, items, pins, responses
from commands.command_context import Dependencies
from context.assembly import Contexts
from context.models import Models
from context.snapshot_store import snapshot_lookup
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.migrate import migrate
from infrastructure.event_log.reader import EventReader
from infrastructure.http.app import Check, health_router, make_app
from infrastructure.http.serve import serve
from infrastructure.ids import mint_uuid
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import make_pool
from replies.active_replies import RunningReplies
from replies.leases import ReplyLeases
from replies.live_events import LiveWriter
from replies.provider.provider import ModelProvider

log = structlog.get_logger(__name__)

RESOURCES = (conversations, items, pins, compaction, responses, compact_response, import_conversations)


def create_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """The app; its lifespan opens and closes all it needs. Postgres may be away when it starts: writes are 503 then."""
    checks: dict[str, Check] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = make_pool(settings.postgres_url)
        await pool.open(wait=False)
        reader = EventReader(pool)
        snapshots = redis.connect(settings, answer_seconds=0.5)
        followed = redis.connect(settings)  # waits for what comes, up to a second at a time
        provider = ModelProvider(settings, metrics)
        models = Models(settings)
        keep_keys = timedelta(hours=settings.idempotency_hours)
        owner = mint_uuid()
        events = EventLog(settings.postgres_url, metrics, keep_keys=keep_keys, owner=owner)
        events.open()
        written = redis.connect(settings, answer_seconds=None)
        live = LiveWriter(written)
        live.start()
        says_alive = make_pool(
            settings.postgres_url, max_size=2
        )  # of its own: no crowd of requests may keep it waiting
        await says_alive.open(wait=False)
        running = RunningReplies(ReplyLeases(says_alive, owner), events, snapshots)
        running.open()
        app.state.dependencies = Dependencies(
            log=events,
            reader=reader,
            provider=provider,
            models=models,
            contexts=Contexts(reader, models, snapshot_lookup(snapshots)),
            metrics=metrics,
            keep_keys=keep_keys,
            redis=followed,
            live=live,
            running=running,
        )
        checks.update(_checks(reader, provider))
        migrating = asyncio.create_task(_migrate(settings.postgres_url))
        try:
            yield
        finally:
            migrating.cancel()
            await running.close()
            await live.close()
            await events.close()
            await provider.close()
            await written.aclose()
            await snapshots.aclose()
            await followed.aclose()
            await says_alive.close()
            await pool.close()

    health = health_router(metrics, lambda: checks, needed=frozenset({"postgres"}))
    return make_app(
        "Conversation Store: commands",
        [*(resource.router for resource in RESOURCES), health],
        lifespan=lifespan,
        metrics=metrics,
    )


def _checks(reader: EventReader, provider: ModelProvider) -> Mapping[str, Check]:
    async def postgres() -> bool:
        return await reader.last_position() >= 0

    async def answering() -> bool:
        return bool(await provider.list_models())

    return {"postgres": postgres, "model": answering} if provider.configured else {"postgres": postgres}


async def _migrate(postgres_url: str) -> None:
    """Brings the schema up to date as soon as Postgres is there."""
    while True:
        try:
            applied = await asyncio.to_thread(migrate, postgres_url)
        except psycopg.OperationalError as error:
            log.warning("migration_waits", error_type=type(error).__name__)
            await asyncio.sleep(0.5)
        else:
            log.info("migrated", applied=applied)
            return


def main() -> None:
    """Serves this side alone, on HOST and PORT."""
    settings = Settings()
    configure_logging("command-api", settings.log_level, settings.log_format)
    serve(create_app(settings, Metrics()), settings)


if __name__ == "__main__":
    main()
