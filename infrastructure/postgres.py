"""Postgres for readers: an async pool whose connections are made when they are needed, and given up soon when it is away."""

import asyncio

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool


class Pool(AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]):
    """A pool that gets every connection back, also from those who are cancelled while they wait for its lock to return one."""

    async def putconn(self, conn: AsyncConnection[tuple[object, ...]]) -> None:
        await asyncio.shield(super().putconn(conn))


def make_pool(postgres_url: str, *, max_size: int = 8) -> Pool:
    """A pool that is still closed: `await pool.open()`. Waiting for a connection ends after 2 s with psycopg.OperationalError."""
    return Pool(
        postgres_url,
        kwargs={
            "autocommit": True,
            "connect_timeout": 2,
            "options": "-c statement_timeout=10s -c default_transaction_read_only=on",
        },
        min_size=1,
        max_size=max_size,
        timeout=2.0,
        reconnect_timeout=5.0,
        check=None,
        open=False,
    )
