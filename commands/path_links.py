"""Changes the links of new items to earlier items of their conversation. Links among the new items are in `item_links.py`."""

from collections.abc import Sequence

from commands.command_route import CommandContext
from commands.item_links import link, open_links
from context.path_history import PathHistory
from domain.commands import NewItem
from domain.items import Item, as_stored, from_stored
from domain.paths import PathSegment


async def linked_to_conversation(
    context: CommandContext, conversation_id: str, new: tuple[NewItem, ...]
) -> tuple[NewItem, ...]:
    """The new items with their links changed to the ids of the items that they lead to."""
    items = [(one.item_id, from_stored(one.item)) for one in new]
    reader = context.dependencies.reader
    head = await reader.readable_head(conversation_id) if open_links(items) else None
    if head is None:
        return new
    history = PathHistory(reader, PathSegment(conversation_id, head.version))
    linked = await linked_to_path(history, items)
    return tuple(NewItem(item_id=item_id, item=as_stored(item)) for item_id, item in linked)


async def linked_to_path(history: PathHistory, items: Sequence[tuple[str, Item]]) -> list[tuple[str, Item]]:
    """The items, as (id, item), with their links changed to the ids of their targets. A target is one of these items, or is on the path."""
    linked = link(items)
    for index, item_link in open_links(linked).items():
        if (target := await history.find(item_link.leads_to)) is not None:
            item_id, item = linked[index]
            linked[index] = item_id, item_link.changed(item, *target)
    return linked
