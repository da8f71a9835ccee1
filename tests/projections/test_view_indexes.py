"""A projector corrects the indexes of the views when it starts."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from projections.view_indexes import correct_indexes
from projections.views.catalog import INDEXES, MONGO_VIEWS, PARTIAL_INDEXES
from tests.projections.world import World
from tests.queries.writer import Writer

ITEMS_INDEX = "tenant_1_conversation_id_1_branch_1_depth_1"


async def indexes(world: World) -> dict[str, dict[str, Any]]:
    """The indexes of each view, without the one on `_id`."""
    return {
        view: {
            name: index for name, index in (await world.database[view].index_information()).items() if name != "_id_"
        }
        for view in MONGO_VIEWS
    }


def are_right(found: dict[str, dict[str, Any]]) -> bool:
    return all(
        {tuple(index.pop("key")): index for index in by_name.values()}
        == {
            keys: {"v": 2, **({"partialFilterExpression": PARTIAL_INDEXES[keys]} if keys in PARTIAL_INDEXES else {})}
            for keys in INDEXES[view]
        }
        for view, by_name in found.items()
    )


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        (None, {}),
        ([("tenant", 1)], {}),
        ([("tenant", 1), ("depth", 1), ("conversation_id", 1), ("branch", 1)], {}),
        ([("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)], {"unique": True}),
        ([("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)], {"hidden": True}),
        (
            [("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)],
            {"partialFilterExpression": {"depth": {"$gt": 7}}},
        ),
        ([("tenant", "hashed")], {}),
    ],
)
async def test_a_missing_or_wrong_index_is_made_again_when_a_projector_starts(
    keys: list[tuple[str, Any]] | None, options: dict[str, Any], write: Writer, world: World
) -> None:
    await world.catch_up()
    await world.until(lambda: _right(world))
    await world.database["items"].drop_index(ITEMS_INDEX)
    if keys is not None:
        await world.database["items"].create_index(keys, name=ITEMS_INDEX, **options)
    assert not await _right(world)
    stop = asyncio.Event()
    with capture_logs() as logged:
        running = asyncio.create_task(world.projector().run(stop))
        await world.until(lambda: _right(world))
    created = [(entry["index"], entry["replaces_other"]) for entry in logged if entry["event"] == "index_created"]
    assert created == [(ITEMS_INDEX, keys is not None)]
    await write.start("one", "two")
    await world.until(world.caught_up)
    stop.set()
    await running
    assert await world.matches_log()


async def test_a_renamed_index_and_an_operators_index_are_kept(
    world: World,
) -> None:
    await world.catch_up()
    await world.until(lambda: _right(world))
    items = world.database["items"]
    await items.drop_index(ITEMS_INDEX)
    await items.create_index(list(INDEXES["items"][0]), name="by_hand")
    await items.create_index("type", name="of_an_operator")
    await correct_indexes(world.database, "items", "items")
    found = await items.index_information()
    assert ITEMS_INDEX not in found
    assert found.keys() > {"_id_", "by_hand", "of_an_operator"}
    await items.drop_indexes()
    await correct_indexes(world.database, "items", "items")
    assert await _right(world)


async def test_views_do_not_wait_for_the_index_of_a_large_collection(write: Writer, world: World) -> None:
    await world.catch_up()
    await world.until(lambda: _right(world))
    items = world.database["items"]
    await items.drop_index(ITEMS_INDEX)
    document = {"tenant": "t" * 100, "branch": 0, "depth": 1}
    for start in range(0, 200_000, 20_000):
        await items.insert_many(
            [{**document, "conversation_id": f"conv_{start + number:0100x}"} for number in range(20_000)],
            ordered=False,
        )
    stop = asyncio.Event()
    running = asyncio.create_task(world.projector().run(stop))
    building = {"command.createIndexes": "items"}
    await world.until(lambda: _operations(world, building))
    while await _operations(world, building):
        started = asyncio.get_running_loop().time()
        await write.append(await write.start("one"), "two")
        await world.until(lambda: world.caught_up(["items"]))
        assert asyncio.get_running_loop().time() - started < 5
        if await _operations(world, building):
            break
    else:
        pytest.fail("the index was there before the view had caught up")
    await world.until(lambda: _right(world))
    stop.set()
    await running


async def _operations(world: World, where: dict[str, Any]) -> list[Any]:
    pipeline: list[dict[str, Any]] = [{"$currentOp": {}}, {"$match": where}]
    return await (await world.client.admin.aggregate(pipeline)).to_list()


async def _right(world: World) -> bool:
    return are_right(await indexes(world))
