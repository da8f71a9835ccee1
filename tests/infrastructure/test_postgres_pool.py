"""Cancelled tasks return their connections to the Postgres pool."""

import asyncio
from contextlib import suppress

from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool


async def test_a_cancelled_task_still_returns_its_connection(settings: Settings) -> None:
    pool = make_pool(settings.postgres_url, max_size=1)
    await pool.open()
    borrowed = asyncio.Event()

    async def borrow() -> None:
        async with pool.connection():
            borrowed.set()
            await asyncio.sleep(0)

    borrower = asyncio.create_task(borrow())
    await borrowed.wait()
    # Makes the borrower wait while it returns its connection.
    async with pool._lock:
        await asyncio.sleep(0.01)
        borrower.cancel()
        with suppress(asyncio.CancelledError):
            await borrower
    async with asyncio.timeout(5), pool.connection() as connection:
        assert not connection.closed
    await pool.close()
