"""The collection of view positions."""

import asyncio

from projections.view_positions import ViewPositions
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION
from projections.views.partitions import PARTITIONS
from tests.projections.world import World


async def test_given_no_collection_when_several_projectors_prepare_then_it_is_created_once_with_small_pages(
    world: World,
) -> None:
    await world.database.drop_collection(POSITIONS_COLLECTION)
    await asyncio.gather(*(ViewPositions(world.database).prepare() for _ in range(4)))
    assert "memory_page_max" in str((await world.database[POSITIONS_COLLECTION].options()).get("storageEngine"))
    await world.catch_up()
    assert len(await world.view_positions()) == PARTITIONS * len(MONGO_VIEWS)
