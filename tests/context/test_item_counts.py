"""Token counts of items are cached.

If a count is removed from the cache while other items are counted, it is still returned.
"""

import asyncio

from context.item_counts import ItemCounts


async def test_given_a_full_cache_when_a_count_is_displaced_while_others_are_counted_then_it_is_still_returned() -> (
    None
):
    counts = ItemCounts(max_counts=2)
    small = {"role": "user", "content": "tea"}
    large = {"role": "user", "content": "tea " * 20_000}
    await counts.of([("a", small)], "o200k_base")
    tokens, _ = await asyncio.gather(
        counts.of([("a", small), ("b", large)], "o200k_base"),
        counts.of([("c", small), ("d", small)], "o200k_base"),
    )
    assert tokens[0] == 5
