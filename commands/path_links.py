"""Changes links from new items to earlier items of their conversation.

Earlier items are found only as far back as `context/path_history.py` reads.
"""

from collections.abc import Sequence

from commands.command_route import CommandContext
from commands.item_links import link, open_links
from context.branch_paths import active_segment
from context.path_history import PathHistory
from domain.commands import NewItem
from domain.items import Item, as_stored, from_stored
from domain.paths import PathSegment


async def linked_to_conversation(
    context: CommandContext, conversation_id: str, new: tuple[NewItem, ...]
) -> tuple[NewItem, ...]:
    """The items. Their links to earlier items of the active path are changed."""
    if not _has_open_links(new):
        return new
    reader = context.dependencies.reader
    head = await reader.readable_head(conversation_id)
    if head is None:
        return new
    return await linked_to_segment(context, await active_segment(reader, conversation_id, head.version), new)


async def linked_to_segment(context: CommandContext, end: PathSegment, new: tuple[NewItem, ...]) -> tuple[NewItem, ...]:
    """As `linked_to_conversation`, for the path whose newest segment is `end`."""
    if not _has_open_links(new):
        return new
    history = PathHistory(context.dependencies.reader, end)
    linked = await linked_to_path(history, [(one.item_id, from_stored(one.item)) for one in new])
    return tuple(NewItem(item_id=item_id, item=as_stored(item)) for item_id, item in linked)


def _has_open_links(new: Sequence[NewItem]) -> bool:
    return bool(open_links([(one.item_id, from_stored(one.item)) for one in new]))


async def linked_to_path(history: PathHistory, items: Sequence[tuple[str, Item]]) -> list[tuple[str, Item]]:
    """The items, as (id, item). Their links to each other and to the path are changed."""
    linked = link(items)
    for index, item_link in open_links(linked).items():
        if (target := await history.find(item_link.leads_to)) is not None:
            item_id, item = linked[index]
            linked[index] = item_id, item_link.changed(item, *target)
    return linked
