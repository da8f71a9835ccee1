"""A view whose version rose is made anew when its projector starts: beside the one that is read, as `scripts.rebuild` does it."""

import asyncio

import psycopg
import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from infrastructure.mongodb import Database
from infrastructure.postgres import Pool
from infrastructure.settings import Settings
from projections.filling import FillingFailed
from projections.generations import Generations
from projections.rebuilding import Rebuild

WORKERS = 2
AGAIN_SECONDS = 5.0
_LOCK = 7_203_914_411
"""The advisory lock under which one process at a time does this."""

log = structlog.get_logger(__name__)


async def renew(settings: Settings, pool: Pool, database: Database, redis: Redis) -> None:
    """Makes anew what is older than this code, through any outage; returns when nothing is."""
    generations = Generations(database)
    while True:
        try:
            if not await generations.outdated():
                return
            await _renew_alone(settings, pool, database, redis)
        except (psycopg.Error, PyMongoError, FillingFailed) as error:
            log.warning("renewal_waits", exc_info=error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _renew_alone(settings: Settings, pool: Pool, database: Database, redis: Redis) -> None:
    """Does it, unless another process is at it."""
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        taken = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))).fetchone()
        outdated = await Generations(database).outdated()
        if taken is None or not taken[0] or not outdated:
            return
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
