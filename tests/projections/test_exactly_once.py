"""Every event is written once into every view, whoever crashes, races or comes back."""

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
from tests.projections.history import write_everything
from tests.projections.world import World
from tests.queries.writer import Writer


async def test_given_every_kind_of_event_when_the_projector_catches_up_then_the_views_are_the_fold_of_the_log(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()
    assert await world.held() == await world.folded()
    assert await world.snapshots() == await world.snapshots_by_log()
    head = await world.reader.last_position()
    assert {(place.position, place.state) for place in (await world.places()).values()} == {(head, "live")}


async def test_given_a_live_projector_when_events_come_one_by_one_then_the_views_are_the_fold_of_the_log(
    write: Writer, live: World
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    assert await live.is_exact()


async def test_given_two_runners_on_the_same_views_when_events_come_then_nothing_is_written_twice(
    write: Writer, world: World
) -> None:
    stop = asyncio.Event()
    running = [asyncio.create_task(world.runner().run(stop)) for _ in range(2)]
    for _ in range(5):
        await asyncio.gather(*(write_everything(write) for _ in range(4)))
    await world.catch_up()
    stop.set()
    await asyncio.gather(*running)
    assert await world.is_sound()  # where buckets changed hands, a snapshot may be absent, and never old


async def test_given_a_batch_was_read_when_another_runner_writes_it_first_then_the_late_one_is_fenced(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    batch = await world.events()
    await world.catch_up()
    begun = [replace(place, position=0) for place in await world.all_places()]
    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(begun, batch[-1].position, batch)
    assert await world.held() == await world.folded()


async def test_given_a_batch_was_read_when_the_view_is_reset_then_the_batch_is_fenced_and_the_view_stays_empty(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()
    places = await world.all_places()
    await write.start("late")
    late = await world.reader.after(places[0].position, limit=100)
    await world.start_over("items", target=late[-1].position)
    views = MongoViews(world.database)
    with pytest.raises(PositionMoved):
        await views.apply(places, late[-1].position, late)
    with pytest.raises(PositionMoved):
        await views.apply([place for place in places if place.view == "items"], late[-1].position, late)
    assert (await world.places())["items"].position == 0
    assert (await world.held())["items"] == {}
    await world.catch_up()
    assert await world.is_exact()


async def test_given_two_that_begin_a_view_at_once_then_it_is_begun_once_and_no_collection_is_left_over(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    begun = [MongoViews(world.database).start_over("items", 0, only_first=True) for _ in range(4)]
    outcomes = await asyncio.gather(*begun, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, PositionMoved) for outcome in outcomes)
    assert len(await world.all_places(["items"])) == PARTITIONS
    await world.catch_up()
    await MongoViews(world.database).start_over("items", await world.reader.last_position())
    await world.catch_up()
    assert await world.is_exact()
    names = await world.database.list_collection_names(filter={"name": {"$regex": "^items"}})
    assert names == [(await world.places())["items"].collection]


async def test_given_a_document_that_must_not_be_there_when_its_insert_comes_then_the_batch_fails_as_a_whole(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    batch = await world.events()
    planted = next(iter((await world.folded())["items"].values()))
    await world.catch_up()
    for view in MONGO_VIEWS:
        await world.database[view].delete_many({})
    await world.database["items"].insert_one(planted)
    await world.database["projections"].update_many({}, {"$set": {"position": 0}})
    places = await world.all_places()
    with pytest.raises(ViewDiverged, match="exists already"):
        await MongoViews(world.database).apply(places, batch[-1].position, batch)
    assert await world.held() == {**{view: {} for view in MONGO_VIEWS}, "items": {planted["_id"]: planted}}
    assert (await world.places())["items"].position == 0


async def test_given_a_document_is_gone_when_a_change_of_it_comes_then_the_batch_fails_as_a_whole(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two")
    await world.catch_up()
    places = await world.all_places()
    await world.database["conversations"].delete_many({})
    await write.append(conversation, "three")
    late = await world.reader.after(places[0].position, limit=10)
    with pytest.raises(ViewDiverged, match="do not exist"):
        await MongoViews(world.database).apply(places, late[-1].position, late)
    assert await world.database["items"].count_documents({}) == 2


@pytest.mark.parametrize("view", ALL_VIEWS)
async def test_given_a_live_view_when_it_is_rebuilt_then_it_equals_what_was_live(
    view: str, write: Writer, live: World
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    held, snapshots = await live.held(), await live.snapshots()
    await live.start_over(view, await live.reader.last_position())
    await live.until(live.shown)
    assert await live.held() == held
    assert await live.snapshots() == snapshots


async def test_given_two_projectors_that_start_a_view_over_when_one_is_slow_then_it_does_not_drop_the_others_collection(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()

    class StartsOverAgain(MongoViews):
        """After the commit of its transaction, another projector starts the view over and fills it."""

        @asynccontextmanager
        async def transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
            async with super().transaction(views, position) as session:
                yield session
            await MongoViews(world.database).start_over("items", 0)
            await world.catch_up()

    await StartsOverAgain(world.database).start_over("items", 0)
    await world.catch_up()
    assert await world.held() == await world.folded()


async def test_given_positions_that_moved_when_a_batch_is_applied_then_it_fails_for_that_and_not_for_its_duplicate_documents(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await world.catch_up()
    places, batch = await world.all_places(), await world.events()
    behind = [replace(place, position=0) for place in places]
    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(behind, batch[-1].position, batch)
    assert await world.is_exact()
