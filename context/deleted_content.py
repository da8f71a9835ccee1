"""Finds out which items are deleted now. Code that shows copies, inherited items or earlier versions of a conversation asks here.

One case needs no look-up: an item that is no copy, in its own conversation at the newest version. The events and the views of that
conversation say whether it is deleted.

An item is deleted when it was retracted, when its conversation was deleted, or when it is a copy of a deleted item. What a reply took over from
an earlier reply is also deleted when that earlier reply is deleted. A fork may retract an item that it inherits. Then the item is deleted in
that fork and in the fork's own forks, and nowhere else. So callers name the conversations of the path (`inherited_by`).
"""

from collections.abc import Collection, Mapping
from typing import Protocol


class Reader(Protocol):
    """What the functions of this module need of the log."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """Which of these ids belong to a retracted item, a deleted response, or a deleted conversation.

        `inherited_by`: forks. An item that one of them inherits, and has retracted for itself, counts as deleted.
        """


def original_in(response_id: str, item_id: str) -> str:
    """The `copy_of` of a copy whose original did not join a conversation: it is in the input or the partial answer of the reply `response_id`.

    The log has no row for such an original, only for the response. If the reply is tried again, its question joins, and gets a row.
    """
    return f"{response_id}/{item_id}"


async def deleted_items(
    reader: Reader, items: Mapping[str, str | None], inherited_by: Collection[str] = ()
) -> frozenset[str]:
    """Which of these items are deleted. `items`: for each item id, its `copy_of`.

    `inherited_by`: the conversations of the path on which the items are shown. Conversations that are no forks may be among them.
    An id that the log does not have counts as not deleted. Takes one look-up, or none if there are no items.
    """
    if not items:
        return frozenset()
    named = {item_id: {item_id, *(copy_of.split("/") if copy_of else ())} for item_id, copy_of in items.items()}
    deleted = await reader.deleted_items({each for ids in named.values() for each in ids}, inherited_by)
    return frozenset(item_id for item_id, ids in named.items() if not deleted.isdisjoint(ids))
