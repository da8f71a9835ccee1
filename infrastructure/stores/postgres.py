"""Postgres for readers: an async pool whose connections are made when they are needed, and given up soon when it is away."""

import asyncio
from collections.abc import Sequence

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from infrastructure.stores.postgres_pipeline import PostgresPipeline

STATEMENT_SECONDS = 10

NOTICE_SILENCE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Parameters of libpq by which a server that is gone without a word is noticed in about 15 s."""


class Pool(AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]):
    """A pool that gets every connection back, also from those who are cancelled while they wait for its lock to return one."""

    _lines: Sequence[PostgresPipeline] = ()

    def line(self, name: str, types: Sequence[str], statement: str) -> PostgresPipeline:
        """A connection beside the pool's, made like them, for one statement; it is closed with the pool."""
        assert isinstance(self.kwargs, dict)
        line = PostgresPipeline({"conninfo": self.conninfo, **self.kwargs}, name, types, statement, STATEMENT_SECONDS)
        self._lines = [*self._lines, line]
        return line

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the library's
        await super().close(timeout)
        for line in self._lines:
            line.close()

    async def putconn(self, conn: AsyncConnection[tuple[object, ...]]) -> None:
        await asyncio.shield(super().putconn(conn))


def make_pool(postgres_url: str, *, max_size: int = 8) -> Pool:
    """A pool that is still closed: `await pool.open()`. Waiting for a connection ends after 2 s with psycopg.OperationalError."""
    return Pool(
        postgres_url,
        kwargs={
            "autocommit": True,
            "connect_timeout": 2,
            **NOTICE_SILENCE,
            "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c default_transaction_read_only=on",
        },
        min_size=1,
        max_size=max_size,
        timeout=2.0,
        reconnect_timeout=5.0,
        check=None,
        open=False,
    )
