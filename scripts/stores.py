"""Open connections to the stores a script works on, whose settings `running.py` finds, and what goes wrong with them."""

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

from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool, make_pool
from scripts.store_location import NotRunning, settings

Data = Annotated[Path, typer.Option("--data", help="The data directory of the scripts/up whose stores are meant.")]
Json = Annotated[bool, typer.Option("--json", help="Say it in JSON, for programs.")]

DATA = Path(".data")
MISUSED, AWAY, INTERRUPTED = 2, 3, 130
"""How a script ends when it was asked wrongly, when a store is away, and by Ctrl-C."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stores:
    """Open connections."""

    settings: Settings
    pool: Pool
    reader: EventReader
    database: Database
    redis: Redis


@asynccontextmanager
async def open_stores(known: Settings) -> AsyncIterator[Stores]:
    """Connects when something is first asked; closes at the end."""
    pool = make_pool(known.postgres_url, max_size=6)
    client = mongodb.connect(known, answer_seconds=120.0)
    snapshots = redis.connect(known, answer_seconds=10.0)
    await pool.open()
    try:
        yield Stores(known, pool, EventReader(pool), mongodb.database(client, known), snapshots)
    finally:
        await pool.close()
        await client.close()
        await snapshots.aclose()


def on_stores(data: Path, work: Callable[[Stores], Awaitable[T]], *, interrupted: str = "Interrupted.") -> T:
    """Does the work on the stores of `data`. Ends the script with a word where that can not be done, or by Ctrl-C."""

    async def opened() -> T:
        async with open_stores(known) as stores:
            return await work(stores)

    try:
        known = settings(data)
        return uvloop.run(opened())
    except NotRunning as problem:
        _end(str(problem), MISUSED)
    except (psycopg.Error, PyMongoError, RedisError) as error:
        _end(f"A store can not be asked: {type(error).__name__}", AWAY)
    except KeyboardInterrupt:
        _end(interrupted, INTERRUPTED)


def _end(why: str, status: int) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(status)
