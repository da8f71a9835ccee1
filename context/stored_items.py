"""An item as an event of the log holds it."""

from msgspec import Struct

from domain.events import InputItem, ItemAppended
from domain.items import Item, from_stored


class StoredItem(Struct, frozen=True):
    """`copy_of`: the id of the original, if the item is a copy. `is_deleted`: it is deleted now, and the caller is not shown deleted content."""

    item_id: str
    item: Item
    copy_of: str | None = None
    is_deleted: bool = False


def stored_item(event: ItemAppended | InputItem) -> StoredItem:
    """The item of an event."""
    return StoredItem(event.item_id, from_stored(event.item), event.copy_of)
