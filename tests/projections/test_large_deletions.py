"""Many documents of a deleted conversation are removed in several transactions."""

import asyncio

import pytest

from infrastructure.event_log.feed import Batch
from infrastructure.event_log.recorded import Recorded
from projections.mongo_views import MAX_REMOVED, MongoViews
from projections.position_advance import PositionMoved
from tests.projections.world import World
from tests.queries.writer import Writer

STEPS = 8


async def _apply(world: World, batch: list[Recorded]) -> None:
    await MongoViews(world.database).apply(await world.view_positions(), Batch(0, [*batch]))


async def _add_items_directly(world: World, conversation_id: str) -> int:
    """Adds items to the view alone, which is faster than appends. Returns how many items the view has."""
    items = world.database["items"]
    more = [
        {
            "_id": f"default:more_{n}",
            "tenant": "default",
            "conversation_id": conversation_id,
            "branch": 0,
            "depth": n + 9,
        }
        for n in range(STEPS * MAX_REMOVED)
    ]
    await items.insert_many(more)
    return await items.count_documents({})


async def test_an_interrupted_large_deletion_is_finished_later(write: Writer, world: World) -> None:
    large = await write.start("one", "two")
    other = await write.start("stays")
    await world.catch_up()
    count = await _add_items_directly(world, large)
    position_before = await world.reader.last_position()
    [item_id] = await write.append(large, "three")
    await write.retract(large, item_id)
    await write.append(other, "before")
    await write.delete(large)
    await write.append(other, "behind")
    late = await world.reader.after(position_before, limit=100)

    removing = asyncio.create_task(_apply(world, late))
    remaining = count
    while remaining >= count:
        async with world.client.start_session(snapshot=True) as session:  # otherwise a count may see half of a commit
            remaining = await world.database["items"].count_documents({}, session=session)
    removing.cancel()
    await asyncio.wait({removing})
    assert MAX_REMOVED <= remaining < count, "the deletion must take several transactions"

    position = (await world.statuses())["items"].position
    for recorded in late:
        if recorded.position > position:
            await _apply(world, [recorded])
    await world.catch_up()
    assert await world.matches_log()


async def test_a_deletion_removes_nothing_if_the_view_started_over_meanwhile(write: Writer, world: World) -> None:
    large = await write.start("one")
    await world.catch_up()
    count = await _add_items_directly(world, large)
    position_before = await world.reader.last_position()
    await write.delete(large)
    late = await world.reader.after(position_before, limit=100)
    view_positions = await world.view_positions()
    await world.database["projections"].update_many({"view": "items"}, {"$set": {"position": 1, "state": "rebuilding"}})

    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(view_positions, Batch(position_before, [*late]))

    assert await world.database["items"].count_documents({}) == count


async def test_deleting_many_small_conversations_at_once_removes_their_documents(write: Writer, world: World) -> None:
    conversation_ids = [await write.start(*map(str, range(90))) for _ in range(12)]
    await write.start("stays")
    await world.catch_up()
    for conversation_id in conversation_ids:
        await write.delete(conversation_id)
    await world.catch_up()
    assert await world.matches_log()
