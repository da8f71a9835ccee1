"""The events with which items join a conversation. Pure."""

from collections.abc import Iterator, Sequence

from domain.commands import NewItem
from domain.conversation import Conversation
from domain.events import InputItem, ItemAppended


def append_at_head(
    state: Conversation, items: Sequence[NewItem | InputItem], author: str, response_id: str | None = None
) -> Iterator[ItemAppended]:
    return append_after(
        items, author=author, parent=state.head, branch=state.branch, depth=state.depth, response_id=response_id
    )


def append_after(
    items: Sequence[NewItem | InputItem],
    *,
    author: str,
    parent: str | None,
    branch: int,
    depth: int,
    response_id: str | None,
) -> Iterator[ItemAppended]:
    """The event of each item. Each item is the parent of the next one.

    `parent`: the parent of the first item. `depth`: the depth of `parent`.
    """
    for distance, new_item in enumerate(items, 1):
        yield ItemAppended(
            item_id=new_item.item_id,
            parent_id=parent,
            branch=branch,
            depth=depth + distance,
            item=new_item.item,
            author=author,
            response_id=response_id,
            copy_of=new_item.copy_of,
        )
        parent = new_item.item_id
