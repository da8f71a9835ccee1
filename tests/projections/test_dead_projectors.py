"""When a projector counts as dead, and when it is ready.

Other projectors measure its silence with their own clocks, and not with the clock of Postgres.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from infrastructure.ids import mint_uuid
from projections.leases import ALIVE_SECONDS, RENEW_SECONDS, Leases
from projections.views.catalog import POSITIONS_COLLECTION
from projections.views.partitions import PARTITIONS
from tests.manual_clock import ManualClock
from tests.projections.test_leases import renew_all
from tests.projections.world import World
from tests.queries.writer import Writer


async def test_a_projector_that_was_frozen_takes_no_partition_of_a_living_projector(
    world: World,
) -> None:
    clock = ManualClock()
    frozen, other = Leases(world.pool, mint_uuid(), clock), Leases(world.pool, mint_uuid())
    before = await renew_all([frozen, other])
    for _ in range(3):
        clock.seconds += 3600
        assert (await frozen.renew()).leases == before[0].leases
        assert (await other.renew()).leases == before[1].leases


async def test_a_dead_projector_loses_its_partitions_after_alive_seconds(
    world: World,
) -> None:
    clock = ManualClock()
    dead, observer = Leases(world.pool, mint_uuid()), Leases(world.pool, mint_uuid(), clock)
    await renew_all([dead, observer])
    for _ in range(round(ALIVE_SECONDS / RENEW_SECONDS)):
        assert len((await observer.renew()).leases) == PARTITIONS // 2
        clock.seconds += RENEW_SECONDS
    assert len((await observer.renew()).leases) == PARTITIONS


async def test_a_projector_whose_renewals_fail_takes_no_other_projectors_partitions(world: World) -> None:
    clock = ManualClock()
    dead, observer = Leases(world.pool, mint_uuid()), Leases(world.pool, mint_uuid(), clock)
    await renew_all([dead, observer])
    for _ in range(20):
        clock.seconds += RENEW_SECONDS
        async with _failing_renewals(world):
            with pytest.raises(psycopg.Error):
                await observer.renew()
        assert len((await observer.renew()).leases) == PARTITIONS // 2


@asynccontextmanager
async def _failing_renewals(world: World) -> AsyncIterator[None]:
    rename = "ALTER TABLE {} RENAME TO {}"
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url, autocommit=True) as connection:
        await connection.execute(rename.format("projectors", "away").encode())
        try:
            yield
        finally:
            await connection.execute(rename.format("away", "projectors").encode())


async def test_new_leases_exceed_the_leases_in_mongodb(write: Writer, world: World) -> None:
    await write.start("one")
    await world.catch_up()
    far_ahead = 2**52  # far above any clock's time in milliseconds
    await world.database[POSITIONS_COLLECTION].update_many({}, {"$set": {"lease": far_ahead}, "$inc": {"epoch": 1}})
    async with world.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ WRITE")
        await connection.execute("TRUNCATE projection_leases, projectors")
    await write.start("two")
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()
    assert all(position.lease > far_ahead for position in await world.view_positions())


async def test_a_projector_that_holds_none_of_its_partitions_is_not_ready(world: World) -> None:
    await Leases(world.pool, mint_uuid()).renew()  # another projector holds all partitions, and dies
    projector, stop = world.projector(), asyncio.Event()
    assert not projector.is_ready
    running = asyncio.create_task(projector.run(stop))
    await world.until(lambda: _is_registered(world, 2))
    assert not projector.checks["partitions_held"]
    await world.until(lambda: _is(projector.is_ready))
    stop.set()
    await running


async def test_a_projector_is_ready_when_no_partition_is_left_for_it(world: World) -> None:
    all_leases = [Leases(world.pool, mint_uuid()) for _ in range(PARTITIONS)]
    await renew_all(all_leases)
    stop = asyncio.Event()
    renewing = asyncio.create_task(_keep_renewing(all_leases))
    projector = world.projector()
    running = asyncio.create_task(projector.run(stop))
    await world.until(lambda: _is(projector.is_ready))
    renewing.cancel()
    stop.set()
    await running


async def _keep_renewing(all_leases: Sequence[Leases]) -> None:
    while True:
        await renew_all(all_leases)
        await asyncio.sleep(RENEW_SECONDS)


async def _is(condition: bool) -> bool:
    return condition


async def _is_registered(world: World, count: int) -> bool:
    async with world.pool.connection() as connection:
        return len(await (await connection.execute("SELECT FROM projectors")).fetchall()) == count
