"""The cache of the token counts of items."""

import asyncio

from context.item_counts import ItemCounts


async def test_a_count_that_leaves_the_cache_meanwhile_is_still_returned() -> None:
    counts = ItemCounts(max_counts=2)
    small = {"role": "user", "content": "tea"}
    large = {"role": "user", "content": "tea " * 20_000}
    await counts.of([("a", small)], "o200k_base")
    tokens, _ = await asyncio.gather(
        counts.of([("a", small), ("b", large)], "o200k_base"),
        counts.of([("c", small), ("d", small)], "o200k_base"),
    )
    assert tokens[0] == 5
