"""The projector's process: `python -m projections.main`. On SIGTERM or Ctrl-C it finishes the batches it has begun, and
exits.
"""

import asyncio
import gc
import signal
from functools import partial

import structlog
import uvloop

from infrastructure.event_log.migrate import DataIsNewer, migrate, when_reachable
from infrastructure.http.metrics_server import serve_metrics
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.projector import build_projector
from projections.rebuild.upgrade import upgrade_views

log = structlog.get_logger(__name__)


async def project(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a projector until `stop`. Starts even while the stores are unavailable.

    Raises DataIsNewer, alone or in an ExceptionGroup.
    """
    metrics = Metrics()
    pool = make_pool(settings.postgres_url, max_size=6)
    client = mongodb.connect(settings, answer_seconds=60.0)
    snapshots = redis.connect(settings)
    database = mongodb.database(client, settings)
    build = partial(build_projector, postgres_url=settings.postgres_url, pool=pool, database=database, redis=snapshots)
    projector = build(metrics=metrics)
    upgrading: asyncio.Task[None] | None = None
    async with serve_metrics(metrics, settings.metrics_port, lambda: projector.checks, settings.metrics_host) as port:
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
    """Gives up at `stop`. Raises DataIsNewer."""
    migrating = asyncio.create_task(when_reachable(migrate, postgres_url))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({migrating, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not migrating.done():
        migrating.cancel()
    elif applied := migrating.result():
        log.info("migrated", files=applied)


async def _main() -> None:
    settings = Settings()
    configure_logging("projector", settings.log_level, settings.log_format, settings.secrets)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    try:
        await project(settings, stop)
    except* DataIsNewer as refusals:
        for error in refusals.exceptions:
            log.critical("data_is_newer", reason=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    # A batch creates tens of thousands of objects that live until the batch ends. With Python's default threshold,
    # garbage collection took a fifth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(_main())
