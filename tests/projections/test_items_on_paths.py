"""The filter of the view `items` matches exactly the items of a path."""

from itertools import product

import pytest

from domain.events import PathBranch
from domain.paths import PathSegment
from projections.views.items import items_on
from tests.projections.world import World

SEGMENTS = (
    PathSegment("a", 9),
    PathSegment("a", 4),
    PathSegment("a", 9, (PathBranch(0, 2, 4),)),
    PathSegment("a", 9, (PathBranch(0, 0, 0), PathBranch(2))),
    PathSegment("a", 9, (PathBranch(0, 2, 6), PathBranch(2))),
    PathSegment("a", 5, (PathBranch(0, 1, 2), PathBranch(1, 2, 4), PathBranch(2))),
    PathSegment("b", 9, (PathBranch(0, 0, 0), PathBranch(1, 3, 6))),
)


@pytest.mark.parametrize("bounds", [{}, {"depth": {"$gt": 1}}])
async def test_the_filter_matches_the_items_that_the_path_contains(world: World, bounds: dict[str, object]) -> None:
    addresses = list(product(("acme", "other"), ("a", "b"), range(3), range(1, 5), (2, 4, 6)))
    names = ("tenant", "conversation_id", "branch", "depth", "version")
    documents = [{"_id": number, **dict(zip(names, address, strict=True))} for number, address in enumerate(addresses)]
    collection = world.database["items_on_paths"]
    await collection.insert_many([*documents])
    for segment in SEGMENTS:
        found = {document["_id"] async for document in collection.find({**items_on("acme", segment), **bounds})}
        assert found == {
            number
            for number, (tenant, conversation_id, branch, depth, version) in enumerate(addresses)
            if (tenant, conversation_id) == ("acme", segment.conversation_id)
            and segment.contains(branch, depth, version)
            and (not bounds or depth > 1)
        }
    await collection.drop()
