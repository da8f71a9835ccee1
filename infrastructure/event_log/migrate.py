"""Brings a Postgres database to the schema that this code needs. Numbered SQL files are applied once each, in order."""

import re
from importlib import resources

import psycopg

_LOCK = 7_203_914_410
"""An arbitrary number: the advisory lock that lets one process migrate at a time. Never change it."""


def migrate(postgres_url: str) -> list[str]:
    """Applies the missing files in one transaction and returns their names.

    Several processes may call it at once. Raises psycopg.Error, with nothing applied, if a file fails.
    """
    applied: list[str] = []
    with psycopg.connect(postgres_url, connect_timeout=10) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied_before = {name for (name,) in connection.execute("SELECT name FROM migrations")}
        for name, sql in _migrations():
            if name not in applied_before:
                connection.execute(sql.encode())
                connection.execute("INSERT INTO migrations (name) VALUES (%s)", (name,))
                applied.append(name)
    return applied


def _migrations() -> list[tuple[str, str]]:
    """(name, SQL) of every numbered file in `migrations/`, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    files = [file for file in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", file.name)]
    return sorted((file.name, file.read_text()) for file in files)
