"""When a projector starts, rebuilds the views whose version in `views/catalog.py` was raised."""

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from pymongo.errors import PyMongoError

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.settings import Settings
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.projector import Projector
from projections.rebuild.backfill_workers import BackfillFailed
from projections.rebuild.rebuild import AnotherRebuild, Rebuild
from projections.rebuild.view_builds import BuildGone, ViewBuilds

WORKERS = 2
RETRY_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def upgrade_views(
    settings: Settings, pool: Pool, database: Database, make_projector: Callable[[], Projector]
) -> None:
    """Returns when no view is outdated. Tries again if Postgres, MongoDB or a backfill fails, or if another rebuild runs."""
    builds = ViewBuilds(database)
    while True:
        try:
            outdated = await builds.outdated()
            if not outdated:
                return
            log.info("upgrade_started", projections=outdated)
            rebuild = Rebuild(
                outdated,
                settings=settings,
                pool=pool,
                database=database,
                make_projector=make_projector,
                workers=WORKERS,
            )
            result = await rebuild.run()
            log.info("upgrade_finished", projections=outdated, position=result.compared[0].position)
        except AnotherRebuild:
            log.debug("upgrade_waits_for_another_rebuild")
        except (psycopg.Error, PyMongoError, BackfillFailed, BuildGone) as error:
            log.warning("upgrade_failed", exc_info=error, retry_seconds=RETRY_SECONDS)
        raise_if_cancelled()
        await asyncio.sleep(RETRY_SECONDS)
