"""What a hostile reader of the projections found, one by one: each of these was lost, doubled, dropped or stuck once."""

import asyncio
from collections.abc import Sequence
from random import randbytes
from typing import Any

import psycopg
import pytest
from psycopg import sql

from domain.commands import DescribeConversation
from projections.leases import RENEW_SECONDS
from projections.mongo_views import MongoViews, make_indexes
from projections.rebuild import backfill
from projections.rebuild.backfill import Share, fill
from projections.rebuild.upgrade import renew
from projections.rebuild.view_builds import BuildGone, ViewBuild, ViewBuilds
from projections.repair import Repair
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, USAGE
from projections.views.partitions import ALL_PARTITIONS
from projections.views.view_position import BUILD_SUFFIX
from tests.projections.history import write_everything
from tests.projections.poison import cure, poison
from tests.projections.test_generations import collections, rebuild_of
from tests.projections.test_leases import shared_by
from tests.projections.world import SECONDS, World
from tests.queries.writer import Writer


def _share(world: World, made: Sequence[ViewBuild], until: int) -> Share:
    return Share(
        postgres_url=world.settings.postgres_url,
        mongodb_url=world.settings.mongodb_url,
        database=world.database.name,
        collections={it.view: it.collection for it in made},
        parked=frozenset(),
        number=0,
        partitions=tuple(ALL_PARTITIONS),
        after=0,
        until=until,
    )


async def _reply(write: Writer, conversation_id: str) -> None:
    response_id, given = await write.request_reply(conversation_id, "?")
    await write.complete_reply(conversation_id, response_id, given, "!")


@pytest.mark.parametrize("bound", ["PAGE_POSITIONS", "PART_BYTES"])
async def test_given_pages_that_were_filled_and_not_noted_when_they_are_filled_again_then_nothing_is_added_twice(
    bound: str, write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await write.start("one")
    await write.execute(conversation, DescribeConversation(title="T"))
    await write.append(conversation, "two")
    await _reply(write, conversation)
    await world.catch_up()
    until = await world.reader.last_position()
    monkeypatch.setattr(backfill, bound, 1)
    generations = ViewBuilds(world.database)
    share = _share(world, await generations.begin(MONGO_VIEWS, until, 1), until)
    for _ in range(2):
        await asyncio.to_thread(lambda: list(fill(share)))
    await generations.filled(MONGO_VIEWS)
    done = await rebuild_of(world).run()
    assert [each.different for each in done.compared] == [0] * len(MONGO_VIEWS)
    assert await world.held() == await world.folded()


async def test_given_a_page_of_large_events_when_it_is_filled_then_they_are_held_in_parts(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await write.start(*["x" * 100_000] * 9)
    await write.delete(await write.start(*["y" * 100_000] * 9))
    await write.append(conversation, "z" * 100_000)
    await world.catch_up()
    until = await world.reader.last_position()
    monkeypatch.setattr(backfill, "PART_BYTES", 350_000)
    generations = ViewBuilds(world.database)
    share = _share(world, await generations.begin(MONGO_VIEWS, until, 1), until)
    await world.database.command("profile", 2)
    assert len(await asyncio.to_thread(lambda: list(fill(share)))) == 1
    await world.database.command("profile", 0)
    inserts = {"op": "insert", "ns": f"{world.database.name}.{share.collections['items']}"}
    sizes = [it["ninserted"] async for it in world.database["system.profile"].find(inserts)]
    assert sizes == [3, 3, 3, 3, 3, 1]  # and three that their part deletes again
    await generations.filled(MONGO_VIEWS)
    done = await rebuild_of(world).run()
    assert [each.different for each in done.compared] == [0] * len(MONGO_VIEWS)


async def test_given_a_database_with_a_statement_timeout_when_a_page_takes_longer_to_write_then_it_is_filled_all_the_same(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await write.start()
    for _ in range(30):
        await write.append(conversation, randbytes(700_000).hex())  # more than the sockets hold between them
    until = await world.reader.last_position()
    monkeypatch.setattr(backfill, "PART_BYTES", 1)
    monkeypatch.setattr(backfill, "_ROWS_AT_ONCE", 1)
    share = _share(world, await ViewBuilds(world.database).begin(MONGO_VIEWS, until, 1), until)
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        await connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '50ms'").format(name))
        try:
            assert len(await asyncio.to_thread(lambda: list(fill(share)))) == 1
        finally:
            await connection.execute(sql.SQL("ALTER DATABASE {} RESET statement_timeout").format(name))


async def test_given_a_filling_with_other_pages_when_a_rebuild_begins_then_it_begins_from_the_start(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_everything(write)
    await world.catch_up()
    until = await world.reader.last_position()
    monkeypatch.setattr("projections.rebuild.view_builds.PAGES", "3 positions")
    monkeypatch.setattr(backfill, "PAGE_POSITIONS", 3)
    share = _share(world, await ViewBuilds(world.database).begin([USAGE], until, 1), until)
    await asyncio.to_thread(lambda: list(fill(share)))
    monkeypatch.undo()
    done = await rebuild_of(world, [USAGE]).run()
    assert [each.different for each in done.compared] == [0]


@pytest.mark.parametrize("projected", [True, False])
async def test_given_replies_that_were_left_out_when_their_conversation_is_deleted_then_a_repair_counts_them(
    projected: bool, write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two")
    state = await poison(world.settings, conversation, 2)
    await world.catch_up()
    await _reply(write, conversation)
    await world.catch_up()
    await cure(world.settings, conversation, 2, state)
    await write.delete(conversation)
    if projected:
        await world.catch_up()
    parked = {view: set(it.parked) for view, it in (await world.places()).items() if it.parked}
    assert parked[USAGE] == {conversation}
    head = await world.reader.head(conversation)
    assert head is not None
    repair = Repair(conversation, head, reader=world.reader, database=world.database, redis=world.redis)
    assert {it.outcome for it in await repair.run()} == {"deleted"}
    await world.catch_up()
    assert not any(it.parked for it in (await world.places()).values())
    assert await world.held() == await world.folded()


async def test_given_a_postgres_that_came_back_with_leases_older_than_mongodb_knows_then_their_holder_takes_them_anew(
    write: Writer, world: World
) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(world.runner().run(stop))
    await write.start("one")
    await world.until(world.shown)
    async with world.pool.connection() as connection:
        backup = await (await connection.execute("SELECT bucket, holder, lease FROM projection_leases")).fetchall()
    halt = asyncio.Event()
    second = asyncio.create_task(world.runner().run(halt))
    await world.until(lambda: shared_by(world, 2))
    halt.set()
    await second
    await world.until(lambda: shared_by(world, 1))
    async with world.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ WRITE")
        for partition, holder, lease in backup:
            await connection.execute(
                "UPDATE projection_leases SET holder = %s, lease = %s WHERE bucket = %s", (holder, lease, partition)
            )
    await asyncio.sleep(2 * RENEW_SECONDS)  # until it has seen them
    for _ in range(8):
        await write.start("two")
    await world.until(world.shown)
    stop.set()
    await running
    assert await world.held() == await world.folded()


async def test_given_a_way_back_that_was_broken_off_then_it_can_be_gone_on_with_or_a_rebuild_begins_anew(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()
    wrong = next(iter((await world.held())["items"]))
    await world.database["items"].update_one({"_id": wrong}, {"$set": {"depth": 77}})
    for goes_on in (False, True):
        await rebuild_of(world, ["items"]).run()
        await ViewBuilds(world.database).bring_back(["items"])
        await world.catch_up()
        if goes_on:
            assert await rebuild_of(world, ["items"]).roll_back() is not None
        else:
            await rebuild_of(world, ["items"]).run()
        assert await world.held() == await world.folded()


async def test_given_a_swap_beside_a_cancel_then_what_is_read_is_not_dropped(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_everything(write)
    await world.catch_up()
    generations = ViewBuilds(world.database)
    made = await generations.begin(["items"], await world.reader.last_position(), 1)
    await rebuild_of(world, ["items"])._fill(made)
    await world.catch_up()
    canceller = ViewBuilds(world.database)
    await asyncio.gather(generations.swap(["items"]), canceller.cancel(["items"]), return_exceptions=True)
    assert await world.held() == await world.folded()


async def test_given_a_write_conflict_when_a_view_is_renewed_then_it_is_renewed_all_the_same(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_everything(write)
    await world.catch_up()
    await rebuild_of(world, ["items"]).run()
    await world.database[POSITIONS_COLLECTION].update_many({"view": "items"}, {"$set": {"version": 0}})
    session = world.client.start_session()
    ending: list[asyncio.Task[None]] = []

    async def meets_another(*arguments: Any) -> None:
        await make_indexes(*arguments)
        if not ending:
            await session.start_transaction()
            which = {"_id": f"items{BUILD_SUFFIX}/0"}
            await world.database[POSITIONS_COLLECTION].update_one(which, {"$inc": {"held": 1}}, session=session)
            ending.append(asyncio.create_task(_end_later()))

    async def _end_later() -> None:
        await asyncio.sleep(0.2)
        await session.abort_transaction()

    monkeypatch.setattr("projections.rebuild.view_builds.make_indexes", meets_another)
    async with asyncio.timeout(SECONDS):
        await renew(world.settings, world.pool, world.database, world.redis)
    await session.end_session()
    assert (await collections(world))["items"] != "items_2"
    assert await world.held() == await world.folded()


async def test_given_two_projectors_that_begin_anew_when_one_is_slow_then_it_drops_nothing_that_the_other_made(
    write: Writer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_everything(write)
    await world.catch_up()
    one, two = MongoViews(world.database), MongoViews(world.database)
    transaction = one.transaction

    def slow(*arguments: Any) -> Any:
        monkeypatch.undo()
        return _Slowly(transaction(*arguments), two, world)

    monkeypatch.setattr(one, "transaction", slow)
    await one.begin_anew("items", 0)
    await world.catch_up()
    assert await world.held() == await world.folded()


class _Slowly:
    """A transaction, and when it is committed time for others."""

    def __init__(self, transaction: Any, other: MongoViews, world: World) -> None:
        self._transaction = transaction
        self._other = other
        self._world = world

    async def __aenter__(self) -> Any:
        return await self._transaction.__aenter__()

    async def __aexit__(self, *raised: object) -> Any:
        result = await self._transaction.__aexit__(*raised)
        await self._other.begin_anew("items", 0)
        await self._world.catch_up()
        return result


async def test_given_a_generation_that_was_forgotten_when_a_rebuild_waits_for_it_then_it_ends_and_says_so(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()
    made = await ViewBuilds(world.database).begin(["items"], await world.reader.last_position(), 1)
    work = rebuild_of(world, ["items"])
    await work._fill(made)
    await world.positions.forget(f"items{BUILD_SUFFIX}")
    with pytest.raises(BuildGone):
        await work._compared()


async def test_given_something_parked_in_totals_when_they_are_compared_then_that_is_not_called_a_difference(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two")
    state = await poison(world.settings, conversation, 2)
    await world.catch_up()
    await _reply(write, conversation)
    await world.catch_up()
    await cure(world.settings, conversation, 2, state)
    done = await rebuild_of(world, [USAGE]).run(swaps=False)
    assert [(each.different, each.digest) for each in done.compared] == [(0, "")]
