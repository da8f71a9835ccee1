"""Decodes the items in events of the log, and counts their tokens."""

from collections.abc import Sequence

from msgspec import Struct

from context.encodings import DEFAULT_ENCODING
from context.item_counts import ItemCounts
from context.selection import ContextItem
from domain.events import InputItem, ItemAppended
from domain.items import Item, from_stored, in_short


class StoredItem(Struct, frozen=True):
    """An item of the log, decoded.

    `copy_of`: the id of the original, if this is a copy. `is_deleted`: the item is deleted now, and the caller
    is not shown deleted content.
    """

    item_id: str
    item: Item
    copy_of: str | None = None
    is_deleted: bool = False


def stored_item(event: ItemAppended | InputItem) -> StoredItem:
    return StoredItem(event.item_id, from_stored(event.item), event.copy_of)


async def counted_items(appended: Sequence[ItemAppended], counts: ItemCounts) -> list[ContextItem]:
    """Tokens are in DEFAULT_ENCODING."""
    items = [from_stored(event.item) for event in appended]
    ids = [event.item_id for event in appended]
    tokens = await counts.of(list(zip(ids, items, strict=True)), DEFAULT_ENCODING)
    counted: list[ContextItem] = []
    for event, item, item_tokens in zip(appended, items, tokens, strict=True):
        stored, form = in_short(item)
        counted.append(
            ContextItem(
                item_id=event.item_id,
                stored=stored,
                tokens=item_tokens,
                depth=event.depth,
                form=form,
                copy_of=event.copy_of,
            )
        )
    return counted
