"""Several projectors share the partitions. If one dies or freezes, others take over."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import psycopg
import pytest

from infrastructure.event_log.incarnation import LogPosition
from infrastructure.ids import mint_uuid
from infrastructure.stores.postgres import Pool
from projections.leases import ALIVE_SECONDS, RENEW_SECONDS, HeldPartitions, Leases
from projections.mongo_views import MongoViews
from projections.position_advance import PositionMoved
from projections.views.catalog import MONGO_VIEWS
from projections.views.partitions import ALL_PARTITIONS, PARTITIONS
from projections.views.view_position import ViewPosition
from tests.projections.history import write_many_kinds
from tests.projections.test_process import projector_process
from tests.projections.world import World
from tests.queries.writer import Writer

TAKEOVER_TIMEOUT_SECONDS = 5.0


async def renew_all(all_leases: Sequence[Leases]) -> list[HeldPartitions]:
    """Each projector renews three times. Returns the last results."""
    for _ in range(3):
        partitions_held = [await leases.renew() for leases in all_leases]
    return partitions_held


async def test_any_number_of_projectors_share_the_partitions_evenly(
    world: World,
) -> None:
    all_leases = [Leases(world.pool, mint_uuid()) for _ in range(PARTITIONS + 1)]
    for count in (1, 2, 3, PARTITIONS, PARTITIONS + 1):
        partitions_held = await renew_all(all_leases[:count])
        assert sorted(partition for own in partitions_held for partition in own.leases) == list(ALL_PARTITIONS)
        shares = [len(own.leases) for own in partitions_held]
        assert max(shares) - min(shares) <= 1
        assert not any(own.dead_holders for own in partitions_held)
    for leases in all_leases[2:]:
        await leases.release()
    assert [len(own.leases) for own in await renew_all(all_leases[:2])] == [PARTITIONS // 2] * 2


async def test_a_dead_projectors_partitions_are_taken_with_higher_leases(world: World) -> None:
    expired_id = mint_uuid()
    expired, other = Leases(world.pool, expired_id), Leases(world.pool, mint_uuid())
    before = (await renew_all([expired, other]))[0].leases
    assert before
    assert await _registered(world) == 2
    partitions_held = await other.renew()

    async def has_all() -> bool:
        nonlocal partitions_held
        partitions_held = await other.renew()
        return len(partitions_held.leases) == PARTITIONS

    await world.until(has_all, ALIVE_SECONDS + 2)
    assert partitions_held.dead_holders == {expired_id}
    assert all(partitions_held.leases[partition] > lease for partition, lease in before.items())
    assert await _registered(world) == 1
    assert (await other.renew()).dead_holders == frozenset()
    assert (await expired.renew()).leases == {}, (
        "the projector is alive again, and got a partition before another projector released one"
    )


async def _registered(world: World) -> int:
    async with world.pool.connection() as connection:
        return len(await (await connection.execute("SELECT FROM projectors")).fetchall())


class _FreezingPool:
    """Waits in each transaction at `SELECT id, beat FROM projectors` until `awake` is set."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.frozen, self.awake = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["_FreezingPool"]:
        async with self._pool.connection() as self._connection:
            yield self

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self._connection.transaction()

    async def execute(self, query: Any, *parameters: Any) -> Any:
        if query.startswith("SELECT id, beat FROM projectors"):
            self.frozen.set()
            await self.awake.wait()
        return await self._connection.execute(query, *parameters)


async def test_a_projector_that_froze_while_it_took_partitions_blocks_nobody(
    world: World,
) -> None:
    pool = _FreezingPool(world.pool)
    renewing = asyncio.create_task(Leases(cast("Pool", pool), mint_uuid()).renew())
    await pool.frozen.wait()
    async with asyncio.timeout(TAKEOVER_TIMEOUT_SECONDS):
        assert len((await Leases(world.pool, mint_uuid()).renew()).leases) == PARTITIONS
    pool.awake.set()
    with pytest.raises(psycopg.Error):
        await renewing


async def test_lease_numbers_still_grow_after_the_lease_table_was_lost(world: World) -> None:
    [before] = await renew_all([Leases(world.pool, mint_uuid())])
    async with world.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ WRITE")
        await connection.execute("TRUNCATE projection_leases, projectors")
    [after] = await renew_all([Leases(world.pool, mint_uuid())])
    assert all(after.leases[partition] > lease for partition, lease in before.leases.items())


async def test_a_projector_frozen_in_a_transaction_blocks_nobody_and_writes_nothing(
    write: Writer, world: World
) -> None:
    await world.catch_up()
    await write_many_kinds(write)
    frozen = MongoViews(world.database)
    leases = Leases(world.pool, frozen.session_id)
    await world.positions.register_leases(MONGO_VIEWS, (await leases.renew()).leases)
    view_positions = await world.view_positions()
    batch = await world.batch()
    with pytest.raises(PositionMoved):
        await _write_and_freeze(frozen, view_positions, world)
    assert await world.matches_log()
    with pytest.raises(PositionMoved):
        await frozen.apply(view_positions, batch)
    assert await world.matches_log()


async def _write_and_freeze(frozen: MongoViews, view_positions: Sequence[ViewPosition], world: World) -> None:
    """Tries to commit after another projector has written everything."""
    async with frozen.transaction([view_position.view for view_position in view_positions], 0) as session:
        await world.positions.advance(view_positions, LogPosition(1), (), session)
        started_at = time.monotonic()
        await world.catch_up()
        assert time.monotonic() - started_at < TAKEOVER_TIMEOUT_SECONDS


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_the_partitions_of_a_killed_or_frozen_projector_are_taken_within_seconds(
    signum: signal.Signals, write: Writer, world: World
) -> None:
    with projector_process(world.settings) as one, projector_process(world.settings) as two:
        await write_many_kinds(write)
        await world.until(world.caught_up)
        await world.until(lambda: shared_by(world, 2))
        one.send_signal(signum)
        started_at = time.monotonic()
        await write_many_kinds(write)
        await world.until(world.caught_up)
        assert time.monotonic() - started_at < TAKEOVER_TIMEOUT_SECONDS
        assert await world.matches_log_but_may_lack_snapshots()
        if signum == signal.SIGSTOP:
            one.send_signal(signal.SIGCONT)
            await world.until(lambda: shared_by(world, 2))
            await write_many_kinds(write)
            await world.until(world.caught_up)
            assert await world.matches_log_but_may_lack_snapshots()
        two.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(two.wait, 20) == 0


async def _holders(world: World) -> set[object]:
    async with world.pool.connection() as connection:
        rows = await (await connection.execute("SELECT holder FROM projection_leases")).fetchall()
    return {holder for (holder,) in rows}


async def shared_by(world: World, count: int) -> bool:
    holders = await _holders(world)
    return None not in holders and len(holders) == count


async def test_a_projector_takes_newer_leases_after_older_ones_were_restored(write: Writer, world: World) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(world.projector().run(stop))
    await write.start("one")
    await world.until(world.caught_up)
    async with world.pool.connection() as connection:
        backup = await (await connection.execute("SELECT bucket, holder, lease FROM projection_leases")).fetchall()
    stop_second = asyncio.Event()
    second = asyncio.create_task(world.projector().run(stop_second))
    await world.until(lambda: shared_by(world, 2))
    stop_second.set()
    await second
    await world.until(lambda: shared_by(world, 1))
    async with world.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ WRITE")
        for partition, holder, lease in backup:
            await connection.execute(
                "UPDATE projection_leases SET holder = %s, lease = %s WHERE bucket = %s", (holder, lease, partition)
            )
    await asyncio.sleep(2 * RENEW_SECONDS)  # the projector reads the older leases
    for _ in range(8):
        await write.start("two")
    await world.until(world.caught_up)
    stop.set()
    await running
    assert await world.documents() == await world.expected_documents()
