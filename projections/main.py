"""The projector's process: `python -m projections.main`. On SIGTERM or Ctrl-C it finishes the batches it has begun, and exits."""

import asyncio
import gc
import signal
from functools import partial

import psycopg
import structlog
import uvloop

from infrastructure.event_log.migrate import migrate
from infrastructure.http.metrics_server import serve_metrics
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.projector import build_projector
from projections.rebuild.upgrade import upgrade_views

_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.1, 5.0

log = structlog.get_logger(__name__)


async def project(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a projector until `stop`. It starts even while the stores are unavailable."""
    metrics = Metrics()
    pool = make_pool(settings.postgres_url, max_size=6)
    client = mongodb.connect(settings, answer_seconds=60.0)
    snapshots = redis.connect(settings)
    database = mongodb.database(client, settings)
    build = partial(build_projector, postgres_url=settings.postgres_url, pool=pool, database=database, redis=snapshots)
    projector = build(metrics=metrics)
    upgrading: asyncio.Task[None] | None = None
    async with serve_metrics(metrics, settings.metrics_port, lambda: projector.checks, settings.host) as port:
        log.info("projector_started", port=port)
        try:
            await pool.open()
            await _migrate(settings.postgres_url, stop)
            upgrading = asyncio.create_task(upgrade_views(settings, pool, database, lambda: build(metrics=Metrics())))
            await projector.run(stop)
        finally:
            if upgrading is not None:
                upgrading.cancel()
                await asyncio.wait([upgrading])
            await pool.close()
            await client.close()
            await snapshots.aclose()
    log.info("projector_stopped")


async def _migrate(postgres_url: str, stop: asyncio.Event) -> None:
    """Applies missing migrations. Retries while Postgres is unavailable."""
    pause = _FIRST_PAUSE
    while not stop.is_set():
        try:
            applied = await asyncio.to_thread(migrate, postgres_url)
        except psycopg.Error as error:
            log.warning("migration_failed", exc_info=error, retry_seconds=pause)
        else:
            if applied:
                log.info("migrated", files=applied)
            return
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)


async def _main() -> None:
    settings = Settings()
    configure_logging("projector", settings.log_level, settings.log_format)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    await project(settings, stop)


if __name__ == "__main__":
    # A batch creates tens of thousands of objects that all live as long as it does. With Python's default threshold of 700, garbage
    # collection took a fifth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(_main())
