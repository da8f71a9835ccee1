"""The pool of connections to Postgres gets every one back, whenever those who have one are cancelled."""

import asyncio
from contextlib import suppress

from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool


async def test_given_one_that_is_cancelled_while_it_returns_its_connection_then_the_pool_has_it_again(
    settings: Settings,
) -> None:
    pool = make_pool(settings.postgres_url, max_size=1)
    await pool.open()
    taken = asyncio.Event()

    async def take() -> None:
        async with pool.connection():
            taken.set()
            await asyncio.sleep(0)

    taking = asyncio.create_task(take())
    await taken.wait()
    async with pool._lock:  # as when many return theirs at once
        await asyncio.sleep(0.01)
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking
    async with asyncio.timeout(5), pool.connection() as connection:
        assert not connection.closed
    await pool.close()
