"""The filters of the view `items` match exactly the items of a path."""

from itertools import product

import pytest

from domain.events import PathBranch
from domain.paths import Path, PathSegment
from projections.views.items import item_ranges
from tests.projections.world import World

PATHS = (
    Path((PathSegment("a", 9),)),
    Path((PathSegment("a", 4),)),
    Path((PathSegment("a", 9, (PathBranch(0, 2, 4),)),)),
    Path((PathSegment("a", 9, (PathBranch(0, 2, 6), PathBranch(2))),)),
    Path((PathSegment("a", 5, (PathBranch(0, 1, 2), PathBranch(1, 2, 4), PathBranch(2))),)),
    Path((PathSegment("b", 9, (PathBranch(0, 1, 2), PathBranch(1, 3, 6))),)),
    Path((PathSegment("b", 4, (PathBranch(0, 1, 2),)), PathSegment("a", 9, (PathBranch(0, 1, 2), PathBranch(1))))),
)


@pytest.mark.parametrize("path", PATHS)
def test_ranges_are_the_same_from_the_end(path: Path) -> None:
    assert [*item_ranges(path, descending=True)] == [*item_ranges(path)][::-1]


@pytest.mark.parametrize("min_depth", [1, 2])
@pytest.mark.parametrize("max_depth", [None, 3])
async def test_the_filters_match_the_items_of_the_path(world: World, min_depth: int, max_depth: int | None) -> None:
    addresses = [
        (tenant, conversation_id, branch, depth, version)
        for tenant, conversation_id, branch, depth, version in product(
            ("acme", "other"), ("a", "b"), range(3), range(1, 5), (2, 4, 6)
        )
        if depth > branch  # branch 1 begins at depth 2, and branch 2 at depth 3
    ]
    names = ("tenant", "conversation_id", "branch", "depth", "version")
    documents = [{"_id": number, **dict(zip(names, address, strict=True))} for number, address in enumerate(addresses)]
    collection = world.database["items_on_paths"]
    await collection.insert_many([*documents])
    for path in PATHS:
        parts = [item_range.within(min_depth, max_depth) for item_range in item_ranges(path)]
        filters = [part.filter("acme") for part in parts if part is not None]
        found = {document["_id"] async for document in collection.find({"$or": filters})} if filters else set()
        assert found == {
            number
            for number, (tenant, conversation_id, branch, depth, version) in enumerate(addresses)
            if tenant == "acme"
            and path.contains(conversation_id, branch, depth, version)
            and min_depth <= depth <= (max_depth or 9)
            and (len(path.segments) == 1 or (conversation_id == "a") == (depth > 1))
        }
    await collection.drop()
