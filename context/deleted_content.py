"""Finds out which items are deleted now. All code that shows items asks here, unless it reads the item's own conversation up to its end.

An item is deleted when it was retracted, when its conversation was deleted, or when it is a copy of a deleted item.
"""

from collections.abc import Collection, Mapping
from typing import Protocol


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def deleted_items(self, item_ids: Collection[str]) -> set[str]:
        """Which of these items were retracted, or are in a deleted conversation."""


async def deleted_items(reader: Reader, items: Mapping[str, str | None]) -> frozenset[str]:
    """Which of these items are deleted. `items`: for each item id, the id of its original if it is a copy, else None.

    An id that the log does not have counts as not deleted. Takes one look-up, or none if there are no items.
    """
    if not items:
        return frozenset()
    originals = {original for original in items.values() if original is not None}
    deleted = await reader.deleted_items(items.keys() | originals)
    return frozenset(item_id for item_id, original in items.items() if item_id in deleted or original in deleted)
