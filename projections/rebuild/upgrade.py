"""A view whose version rose is made anew when its projector starts: beside the one that is read, as `scripts.rebuild` does it."""

import asyncio

import psycopg
import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from infrastructure.settings import Settings
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.rebuild.backfill import BackfillFailed
from projections.rebuild.rebuild import AnotherRebuild, Rebuild
from projections.rebuild.view_builds import BuildGone, ViewBuilds
from projections.views.catalog import MongoView

WORKERS = 2
AGAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def renew(settings: Settings, pool: Pool, database: Database, redis: Redis) -> None:
    """Makes anew what is older than this code, through any outage; returns when nothing is."""
    generations = ViewBuilds(database)
    while True:
        try:
            outdated = await generations.outdated()
            if not outdated:
                return
            await _renew(outdated, settings, pool, database, redis)
        except AnotherRebuild:
            log.debug("renewal_waits_for_another")
        except (psycopg.Error, PyMongoError, BackfillFailed, BuildGone) as error:
            log.warning("renewal_waits", exc_info=error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _renew(outdated: list[MongoView], settings: Settings, pool: Pool, database: Database, redis: Redis) -> None:
    log.info("renewal_begun", projections=outdated)
    rebuild = Rebuild(
        outdated,
        settings=settings,
        pool=pool,
        database=database,
        redis=redis,
        workers=WORKERS,
        report=lambda _phase, _done, _total: None,
    )
    done = await rebuild.run()
    log.info("renewal_done", projections=outdated, position=done.compared[0].position)
