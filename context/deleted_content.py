"""An item is deleted if it is retracted, its conversation is deleted, or its original is deleted.

What a reply took over from an earlier reply is deleted with the earlier reply. A fork may retract an item that it
inherits. Then the item is deleted only in that fork and in its own forks.
"""

from collections.abc import Collection, Mapping
from typing import Protocol


class Reader(Protocol):
    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """Which of these ids belong to a retracted item, a deleted response, or a deleted conversation.

        `inherited_by`: forks. An inherited item that one of these forks has retracted counts as deleted.
        """


def original_in(response_id: str, item_id: str) -> str:
    """The `copy_of` of a copy whose original is only in the input or the partial answer of a reply.

    The log has no row for such an original, so the response is named.
    """
    return f"{response_id}/{item_id}"


async def deleted_items(
    reader: Reader, items: Mapping[str, str | None], inherited_by: Collection[str] = ()
) -> frozenset[str]:
    """Which of these items are deleted now. `items`: the `copy_of` of each item, by item id.

    `inherited_by`: the conversations of the path. An id that the log does not have counts as not deleted.
    """
    if not items:
        return frozenset()
    named = {item_id: {item_id, *(copy_of.split("/") if copy_of else ())} for item_id, copy_of in items.items()}
    deleted = await reader.deleted_items({each for ids in named.values() for each in ids}, inherited_by)
    return frozenset(item_id for item_id, ids in named.items() if not deleted.isdisjoint(ids))
