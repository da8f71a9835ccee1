"""A pool of async connections to Postgres. Transactions are read-only by default."""

import asyncio
import select
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from infrastructure.stores.postgres_pipeline import OutcomeUnknown, PostgresPipeline, RegisterTypes, ServerTimedOut

STATEMENT_TIMEOUT_SECONDS = 10

DEAD_SERVER_DETECTION = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""libpq parameters. A connection to a dead server fails within about 15 s."""

RECONNECT_TIMEOUT_SECONDS = 0.0
"""The pool gives up at once, and connects again at the next request for a connection.

With retries after 1, 3 and 7 s, callers would get no connection until the next retry, although
Postgres is back.
"""


class Pool(AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]):
    """Hands out no connection that the server has closed. Loses no connection if a caller is cancelled while
    returning a connection.
    """

    _pipelines: Sequence[PostgresPipeline] = ()

    def pipeline(
        self, name: str, types: Sequence[str], statement: str, register_types: RegisterTypes | None = None
    ) -> PostgresPipeline:
        """The pool closes the pipeline."""
        assert isinstance(self.kwargs, dict)
        pipeline = PostgresPipeline(
            {"conninfo": self.conninfo, **self.kwargs},
            name=name,
            types=types,
            statement=statement,
            transaction_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
            register_types=register_types,
        )
        self._pipelines = [*self._pipelines, pipeline]
        return pipeline

    async def read(self, pipeline: PostgresPipeline, values: Sequence[Any], timeout_seconds: float) -> Any:
        """Use it only for statements that read. Calls once more if the connection was lost."""
        try:
            return await pipeline.call(values, timeout_seconds)
        except OutcomeUnknown as error:
            if self.closed or isinstance(error, ServerTimedOut):
                raise
            return await pipeline.call(values, timeout_seconds)

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the library's signature
        await super().close(timeout)
        for pipeline in self._pipelines:
            pipeline.end()

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[tuple[object, ...]]:  # noqa: ASYNC109 - the library's signature
        # A restart of the server closes every idle connection. Each closed connection would make one caller fail.
        while _has_data(connection := await super().getconn(timeout)):
            await connection.close()
            await self.putconn(connection)  # the pool replaces it
        return connection

    async def putconn(self, conn: AsyncConnection[tuple[object, ...]]) -> None:
        await asyncio.shield(super().putconn(conn))


def _has_data(connection: AsyncConnection[tuple[object, ...]]) -> bool:
    """Whether the server has sent something over an idle connection, or has closed it."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def make_pool(postgres_url: str, *, max_size: int = 8, read_only: bool = True) -> Pool:
    """Call `await pool.open()`. Waiting for a connection ends after 2 s with psycopg.OperationalError."""
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
    return Pool(
        postgres_url,
        kwargs={
            "autocommit": True,
            "connect_timeout": 2,
            **DEAD_SERVER_DETECTION,
            "options": f"{options} -c default_transaction_read_only=on" if read_only else options,
        },
        min_size=1,
        max_size=max_size,
        timeout=2.0,
        reconnect_timeout=RECONNECT_TIMEOUT_SECONDS,
        check=None,
        open=False,
    )


async def is_writable(write_pool: Pool) -> bool:
    """False if Postgres is a replica or read-only. Raises psycopg.Error."""
    async with write_pool.connection() as connection:
        row = await (await connection.execute("SHOW transaction_read_only")).fetchone()
        return row == ("off",)
