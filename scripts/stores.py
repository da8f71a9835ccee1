"""Open connections to the stores a script works on, whose settings `running.py` finds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from redis.asyncio import Redis

from infrastructure import mongodb, redis
from infrastructure.event_log.reader import EventReader
from infrastructure.mongodb import Database
from infrastructure.postgres import Pool, make_pool
from infrastructure.settings import Settings
from scripts.running import NotRunning, settings

Data = Annotated[Path, typer.Option("--data", help="The directory of the scripts/up whose stores are meant.")]
Json = Annotated[bool, typer.Option("--json", help="Say it in JSON, for programs.")]

DATA = Path(".data")


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


def known_settings(data: Path) -> Settings:
    """The settings of the store in `data`; ends the script, with a word on what to do, where none is known."""
    try:
        return settings(data)
    except NotRunning as problem:
        typer.echo(problem, err=True)
        raise typer.Exit(2) from None
