"""Finds inherited items for commands that name an item. A fork's own rows do not have the items that it inherits."""

from collections.abc import Callable

from starlette.responses import Response

from commands.access import readable_conversation
from commands.command_route import CommandContext
from context.pinned_items import undeleted_on_path
from domain.commands import PinItem, RetractItem, UnpinItem
from domain.conversation import KnownItem
from domain.errors import ItemNotFound
from domain.events import ItemAppended
from domain.paths import PathSegment
from infrastructure.event_log.append_request import Appended

CommandOnItem = type[PinItem] | type[UnpinItem] | type[RetractItem]


async def execute_on_item(
    context: CommandContext,
    conversation_id: str,
    item_id: str,
    command: CommandOnItem,
    answer: Callable[[Appended], bytes],
) -> Response:
    """Executes the command on an item that the conversation has or inherits. Raises ItemNotFound."""
    try:
        return await context.execute(conversation_id, command(item_id=item_id), answer)
    except ItemNotFound:
        inherited = await inherited_item(context, conversation_id, item_id)
        if inherited is None:
            raise
    return await context.execute(conversation_id, command(item_id=item_id, inherited=inherited), answer)


async def inherited_item(context: CommandContext, conversation_id: str, item_id: str) -> KnownItem | None:
    """None if the item is not inherited, or if it is deleted."""
    head = await readable_conversation(context, conversation_id)
    found = await undeleted_on_path(context.dependencies.reader, PathSegment(conversation_id, head.version), [item_id])
    appended = found.get(item_id)
    if appended is None or appended.conversation_id == conversation_id:
        return None
    assert isinstance(appended.event, ItemAppended)
    return KnownItem(branch=0, depth=appended.event.depth, inherited=True)
