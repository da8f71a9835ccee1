"""`/health/ready` of the command API says when the log cannot be written to."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
from psycopg import sql

from infrastructure.settings import Settings
from replies.leases import ALIVE_SECONDS

READY = {"status": "ready", "checks": {"postgres": "ok", "log_writable": "ok"}}
NOT_WRITABLE = {"status": "unavailable", "checks": {"postgres": "ok", "log_writable": "failed"}}


async def until_ready_is(api: httpx.AsyncClient, status: int, body: object, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            answer = await api.get("/health/ready")
            if (answer.status_code, answer.json()) == (status, body):
                return
            await asyncio.sleep(0.05)


@contextmanager
def read_only(settings: Settings) -> Iterator[None]:
    """Makes Postgres read-only, as hosting providers do when a disk is nearly full."""
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(settings.postgres_url, autocommit=True, options=options) as connection:
        database = sql.Identifier(connection.info.dbname)
        disconnect = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
        connection.execute(disconnect)
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))
            connection.execute(disconnect)


async def test_the_command_api_is_not_ready_while_postgres_is_read_only(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    await until_ready_is(api, 200, READY, 5)
    with read_only(settings):
        await until_ready_is(api, 503, NOT_WRITABLE, ALIVE_SECONDS + 5)
    await until_ready_is(api, 200, READY, 10)


async def test_the_command_api_is_not_ready_after_a_refused_append(api: httpx.AsyncClient, settings: Settings) -> None:
    await until_ready_is(api, 200, READY, 5)
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER disk_is_full BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION disk_is_full()"
        )
        try:
            appending = asyncio.create_task(api.post("/v1/conversations", json={}))
            await until_ready_is(api, 503, NOT_WRITABLE, 5)
        finally:
            connection.execute("DROP FUNCTION disk_is_full CASCADE")
    assert (await appending).status_code == 200
    await until_ready_is(api, 200, READY, 1)
