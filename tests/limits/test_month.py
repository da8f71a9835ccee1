"""The token counts of a month when the process stops."""

import asyncio

import psycopg
from structlog.testing import capture_logs

from infrastructure.limits.month import MonthKey, MonthlyTokens
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool

TENANT, SUBJECT = MonthKey("acme", "tenant", ""), MonthKey("acme", "subject", "ann")


async def test_token_counts_not_written_when_the_process_stops_are_logged(settings: Settings) -> None:
    months = MonthlyTokens()
    async with (
        make_pool(settings.postgres_url, max_size=1, read_only=False) as pool,
        await psycopg.AsyncConnection.connect(settings.postgres_url) as locking,
        await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as watching,
    ):
        await locking.execute("LOCK TABLE token_usage")
        months.open(pool)
        months.add([TENANT, SUBJECT], 7)
        async with asyncio.timeout(10):
            waiting = "SELECT FROM pg_locks WHERE relation = 'token_usage'::regclass AND NOT granted"
            while not await (await watching.execute(waiting)).fetchall():  # noqa: ASYNC110 - nothing notifies of it
                await asyncio.sleep(0.01)
        months.add([SUBJECT], 5)
        with capture_logs() as logged:
            await months.close(seconds=0.1)
    assert [(line["event"], line["counts"]) for line in logged] == [("tokens_not_counted", 2)]
