"""Options, exit statuses and opened stores, shared by the scripts that work on the stores."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import psycopg
import typer
import uvloop
from pymongo.errors import PyMongoError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infrastructure.event_log.migrate import DataIsNewer, check_migrations
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool, make_pool
from scripts import store_location

DataOption = Annotated[Path, typer.Option("--data", help="The data directory of the store, as given to scripts/up.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

DEFAULT_DATA = Path(".data")
USAGE_ERROR, STORE_UNAVAILABLE, INTERRUPTED = 2, 3, 130
"""130 is Ctrl-C."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stores:
    settings: Settings
    pool: Pool
    reader: EventReader
    database: Database
    redis: Redis


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Raises DataIsNewer or psycopg.Error. MongoDB and Redis connect at their first request."""
    await asyncio.to_thread(check_migrations, settings.postgres_url)
    pool = make_pool(settings.postgres_url, max_size=6)
    client = mongodb.connect(settings, answer_seconds=120.0)
    snapshots = redis.connect(settings, answer_seconds=10.0)
    await pool.open()
    try:
        yield Stores(settings, pool, EventReader(pool), mongodb.database(client, settings), snapshots)
    finally:
        await pool.close()
        await client.close()
        await snapshots.aclose()


def run_on_stores(data: Path, work: Callable[[Stores], Awaitable[T]], *, interrupted: str = "Interrupted.") -> T:
    """Runs `work`. On a failure of the store or its settings, and on Ctrl-C, prints a message and exits."""

    async def work_connected(settings: Settings) -> T:
        async with open_stores(settings) as stores:
            return await work(stores)

    try:
        return uvloop.run(work_connected(store_location.settings(data)))
    except store_location.StoreNotFound as problem:
        _exit(str(problem), USAGE_ERROR)
    except DataIsNewer as refusal:
        _exit(str(refusal), 1)
    except (psycopg.Error, PyMongoError, RedisError) as error:
        _exit(
            f"{_store_of(error)} failed: {type(error).__name__}. Check that it runs, then run the command again.",
            STORE_UNAVAILABLE,
        )
    except KeyboardInterrupt:
        _exit(interrupted, INTERRUPTED)


def _store_of(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return "Postgres"
    return "MongoDB" if isinstance(error, PyMongoError) else "Redis"


def _exit(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)
