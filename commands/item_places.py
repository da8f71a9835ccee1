"""Finds where an item lies in its conversation."""

from msgspec import Struct

from commands.command_route import CommandContext
from context.branch_paths import opening_of
from context.conversation_settings import unretracted
from context.deleted_content import deleted_items
from context.pinned_items import undeleted_on_path
from domain.conversation import KnownItem
from domain.errors import ItemNotFound
from domain.events import ItemAppended, Leaf, PathBranch
from domain.paths import PathSegment, leaf_before, up_to_item


class ItemPlace(Struct, frozen=True):
    """Where an item lies.

    leaf       the item, and the path that ends with it
    parent     the item's parent, and the path that ends with the parent
    inherited  the item, if the conversation inherits it; None if the item is the conversation's own
    """

    leaf: Leaf
    parent: Leaf
    inherited: KnownItem | None = None


async def place_of(context: CommandContext, conversation_id: str, version: int, item_id: str) -> ItemPlace:
    """The place of an item that the conversation has or inherits. Raises ItemNotFound, also if the item is deleted."""
    reader = context.dependencies.reader
    row = (await unretracted(reader, conversation_id, version, [item_id])).get(item_id)
    if row is None:
        return await _inherited_place(context, conversation_id, version, item_id)
    event = row.event
    assert isinstance(event, ItemAppended)
    if event.copy_of is not None and await deleted_items(reader, {item_id: event.copy_of}, [conversation_id]):
        raise ItemNotFound(item_id)
    opening = await opening_of(reader, conversation_id, event)
    return ItemPlace(
        leaf=Leaf(item_id, event.depth, up_to_item(event, row.version, opening)),
        parent=leaf_before(event, row.version, opening),
    )


async def _inherited_place(context: CommandContext, conversation_id: str, version: int, item_id: str) -> ItemPlace:
    """In a fork, the inherited items are the beginning of branch 0."""
    found = await undeleted_on_path(context.dependencies.reader, PathSegment(conversation_id, version), [item_id])
    row = found.get(item_id)
    if row is None or row.conversation_id == conversation_id:
        raise ItemNotFound(item_id)
    event = row.event
    assert isinstance(event, ItemAppended)
    return ItemPlace(
        leaf=Leaf(item_id, event.depth, (PathBranch(0, event.depth, 0),)),
        parent=Leaf(event.parent_id, event.depth - 1, (PathBranch(0, event.depth - 1, 0),)),
        inherited=KnownItem(branch=0, depth=event.depth, inherited=True),
    )
