"""Every event is written once into every view, even if projectors race, repeat a batch or start a view over."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from pymongo.asynchronous.client_session import AsyncClientSession

from projections.mongo_views import MongoViews
from projections.parking import ViewDiverged
from projections.position_advance import PositionMoved
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS
from projections.views.partitions import PARTITIONS
from tests.projections.history import write_many_kinds
from tests.projections.world import World
from tests.queries.writer import Writer


async def test_after_a_catch_up_the_views_are_the_fold_of_the_log(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()
    assert await world.snapshots() == await world.snapshots_by_log()
    head = await world.reader.last_position()
    assert {(status.position, status.state) for status in (await world.statuses()).values()} == {(head, "live")}


async def test_with_a_live_projector_the_views_are_the_fold_of_the_log(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_two_projectors_on_the_same_views_write_nothing_twice(write: Writer, world: World) -> None:
    stop = asyncio.Event()
    running = [asyncio.create_task(world.projector().run(stop)) for _ in range(2)]
    for _ in range(5):
        await asyncio.gather(*(write_many_kinds(write) for _ in range(4)))
    await world.catch_up()
    stop.set()
    await asyncio.gather(*running)
    assert await world.matches_log_but_may_lack_snapshots()  # a takeover may lose a snapshot


async def test_a_batch_that_another_projector_wrote_cannot_be_written_again(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    batch = await world.batch()
    await world.catch_up()
    at_start = [replace(view_position, position=0) for view_position in await world.view_positions()]
    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(at_start, batch)
    assert await world.documents() == await world.expected_documents()


async def test_a_late_batch_is_not_written_after_its_view_started_over(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    view_positions = await world.view_positions()
    await write.start("late")
    late = await world.batch(after=view_positions[0].position)
    await world.start_over("items", target=late.end)
    views = MongoViews(world.database)
    with pytest.raises(PositionMoved):
        await views.apply(view_positions, late)
    with pytest.raises(PositionMoved):
        await views.apply([view_position for view_position in view_positions if view_position.view == "items"], late)
    assert (await world.statuses())["items"].position == 0
    assert (await world.documents())["items"] == {}
    await world.catch_up()
    assert await world.matches_log()


async def test_projectors_that_start_a_view_over_together_leave_one_collection(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    starts = [MongoViews(world.database).start_over("items", 0, only_incomplete=True) for _ in range(4)]
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, PositionMoved) for outcome in outcomes)
    assert len(await world.view_positions(["items"])) == PARTITIONS
    await world.catch_up()
    await MongoViews(world.database).start_over("items", await world.reader.last_position())
    await world.catch_up()
    assert await world.matches_log()
    names = await world.database.list_collection_names(filter={"name": {"$regex": "^items"}})
    assert names == [(await world.statuses())["items"].collection]


async def test_a_batch_that_inserts_an_existing_document_writes_nothing(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    batch = await world.batch()
    planted = next(iter((await world.expected_documents())["items"].values()))
    await world.catch_up()
    for view in MONGO_VIEWS:
        await world.database[view].delete_many({})
    await world.database["items"].insert_one(planted)
    await world.database["projections"].update_many({}, {"$set": {"position": 0}})
    view_positions = await world.view_positions()
    with pytest.raises(ViewDiverged, match="exists already"):
        await MongoViews(world.database).apply(view_positions, batch)
    assert await world.documents() == {**{view: {} for view in MONGO_VIEWS}, "items": {planted["_id"]: planted}}
    assert (await world.statuses())["items"].position == 0


async def test_a_batch_that_changes_a_missing_document_writes_no_item(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    await world.catch_up()
    view_positions = await world.view_positions()
    await world.database["conversations"].delete_many({})
    await write.append(conversation, "three")
    late = await world.batch(after=view_positions[0].position)
    with pytest.raises(ViewDiverged, match="do not exist"):
        await MongoViews(world.database).apply(view_positions, late)
    assert await world.database["items"].count_documents({}) == 2


@pytest.mark.parametrize("view", ALL_VIEWS)
async def test_a_view_that_starts_over_shows_the_same_as_before(view: str, write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    stored, snapshots = await live.documents(), await live.snapshots()
    await live.start_over(view, await live.reader.last_position())
    await live.until(live.caught_up)
    assert await live.documents() == stored
    assert await live.snapshots() == snapshots


async def test_the_slower_of_two_projectors_drops_no_collection_of_the_other(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()

    class StartsOverAgain(MongoViews):
        """After the commit, another projector starts the view over."""

        @asynccontextmanager
        async def transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
            async with super().transaction(views, position) as session:
                yield session
            await MongoViews(world.database).start_over("items", 0)
            await world.catch_up()

    await StartsOverAgain(world.database).start_over("items", 0)
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()


async def test_a_batch_whose_positions_moved_fails_with_position_moved(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    view_positions, batch = await world.view_positions(), await world.batch()
    behind = [replace(view_position, position=0) for view_position in view_positions]
    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(behind, batch)
    assert await world.matches_log()
