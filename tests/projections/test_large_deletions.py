"""A conversation of any size is deleted in bounded steps, and an interruption between them misses nothing."""

import asyncio

import pytest

from infrastructure.event_log.recorded import Recorded
from projections.mongo_views import MAX_REMOVED, MongoViews
from projections.position_advance import PositionMoved
from tests.projections.world import World
from tests.queries.writer import Writer

STEPS = 8


async def _apply(world: World, batch: list[Recorded]) -> None:
    await MongoViews(world.database).apply(await world.view_positions(), batch[-1].position, batch)


async def _swell(world: World, conversation_id: str) -> int:
    """Gives a conversation many more items than the log says, which is quicker; returns how many items there are now."""
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


async def test_given_a_large_deletion_that_is_interrupted_when_a_projector_continues_then_it_misses_nothing(
    write: Writer, world: World
) -> None:
    large = await write.start("one", "two")
    other = await write.start("stays")
    await world.catch_up()
    count = await _swell(world, large)
    old = await world.reader.last_position()
    [item_id] = await write.append(large, "three")
    await write.retract(large, item_id)
    await write.append(other, "before")
    await write.delete(large)
    await write.append(other, "behind")
    late = await world.reader.after(old, limit=100)

    removing = asyncio.create_task(_apply(world, late))
    left = count
    while left >= count:
        async with world.client.start_session(snapshot=True) as session:  # another count may see half a commit
            left = await world.database["items"].count_documents({}, session=session)
    removing.cancel()
    await asyncio.wait({removing})
    assert MAX_REMOVED <= left < count, "it is not one transaction"

    position = (await world.statuses())["items"].position
    for recorded in late:
        if recorded.position > position:
            await _apply(world, [recorded])
    await world.catch_up()
    assert await world.is_exact()


async def test_given_a_view_that_started_over_when_a_late_projector_deletes_a_large_conversation_then_it_removes_nothing(
    write: Writer, world: World
) -> None:
    large = await write.start("one")
    await world.catch_up()
    count = await _swell(world, large)
    old = await world.reader.last_position()
    await write.delete(large)
    late = await world.reader.after(old, limit=100)
    view_positions = await world.view_positions()
    await world.database["projections"].update_many({"view": "items"}, {"$set": {"position": 1, "state": "rebuilding"}})

    with pytest.raises(PositionMoved):
        await MongoViews(world.database).apply(view_positions, late[-1].position, late)

    assert await world.database["items"].count_documents({}) == count


async def test_given_many_small_conversations_that_are_deleted_at_once_then_they_are_removed_in_bounded_steps(
    write: Writer, world: World
) -> None:
    made = [await write.start(*map(str, range(90))) for _ in range(12)]
    await write.start("stays")
    await world.catch_up()
    for conversation_id in made:
        await write.delete(conversation_id)
    await world.catch_up()
    assert await world.is_exact()
