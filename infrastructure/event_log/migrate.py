"""Brings a Postgres database to the schema that this code needs. Numbered SQL files are applied once each, in order.

Older code must not touch data that newer code wrote, because older code does not know everything in this data.
"""

import asyncio
import re
from collections.abc import Callable
from importlib import resources
from typing import TypeVar

import psycopg
import structlog

_LOCK = 7_203_914_410
"""An arbitrary number that must never change. The lock lets one process migrate at a time."""

RETRY_SECONDS = 0.5

T = TypeVar("T")

log = structlog.get_logger(__name__)


class DataIsNewer(Exception):
    """Newer code has used this store. `newest_known`, `newest_found`: a migration, or a view with its version."""

    def __init__(self, what: str, newest_known: str, newest_found: str) -> None:
        super().__init__(
            f"The data is newer than this version of the store: it contains {what} {newest_found};"
            f" this version knows none newer than {newest_known}. Start a newer version."
        )
        self.newest_known = newest_known
        self.newest_found = newest_found


def migrate(postgres_url: str) -> list[str]:
    """Applies the missing files in one transaction, and returns their names. Several processes may call it at once.

    Raises psycopg.Error and DataIsNewer.
    """
    applied: list[str] = []
    with psycopg.connect(postgres_url, connect_timeout=10) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied_before = _applied(connection)
        for name, sql in _migrations():
            if name not in applied_before:
                connection.execute(sql.encode())
                connection.execute("INSERT INTO migrations (name) VALUES (%s)", (name,))
                applied.append(name)
    return applied


def check_migrations(postgres_url: str) -> None:
    """Changes nothing. Raises DataIsNewer and psycopg.Error."""
    with psycopg.connect(postgres_url, connect_timeout=2) as connection:
        row = connection.execute("SELECT to_regclass('migrations') IS NOT NULL").fetchone()
        if row is not None and row[0]:
            _applied(connection)


async def when_reachable(work: Callable[[str], T], postgres_url: str) -> T:
    """Repeats `work` until it raises no psycopg.Error. Raises DataIsNewer."""
    while True:
        try:
            return await asyncio.to_thread(work, postgres_url)
        except psycopg.Error as error:
            log.warning("migration_failed", reason=error)
        await asyncio.sleep(RETRY_SECONDS)  # nothing notifies us when Postgres is back


def _applied(connection: psycopg.Connection) -> set[str]:
    """Raises DataIsNewer."""
    found = {name for (name,) in connection.execute("SELECT name FROM migrations")}
    names = [name for name, _ in _migrations()]
    if unknown := found.difference(names):
        raise DataIsNewer("migration", names[-1], max(unknown))
    return found


def _migrations() -> list[tuple[str, str]]:
    """Pairs of name and SQL, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    files = [file for file in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", file.name)]
    return sorted((file.name, file.read_text()) for file in files)
