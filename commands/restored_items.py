"""Restores a retracted item."""

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from commands.access import readable_conversation
from commands.command_route import CommandContext, command_route
from context.deleted_content import deleted_items
from context.forks import read_path
from domain.commands import RestoreItem
from domain.conversation import KnownItem
from domain.errors import ItemNotFound
from domain.events import ItemAppended
from domain.items import as_output
from domain.paths import PathSegment
from infrastructure.event_log.append_request import Appended
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.http.item_schemas import Item

router = APIRouter()


@command_route(router, "POST", "/v1/conversations/{conversation_id}/items/{item_id}/restore", answer=Item)
async def restore_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Shows a deleted item again, at its place. Answers with the item. If it is not deleted, nothing changes.

    The item's pin does not come back. Summaries that cover the item are withdrawn. The answer is 404 if the item is a copy of a
    deleted item, or if it was deleted together with its response. It is also 404 if the item is inherited, and is deleted in its own
    conversation or in a fork between that conversation and this one.
    """
    reader = context.dependencies.reader
    version = (await readable_conversation(context, conversation_id)).version
    found = await _find_item(reader, conversation_id, item_id, version)
    if found is None or await _is_deleted_elsewhere(reader, found):
        raise ItemNotFound(item_id)

    def answer(_: Appended) -> bytes:
        return as_output(item_id, found.event.item)

    response_id = None if found.inherited else found.event.response_id
    command = RestoreItem(item_id=item_id, inherited=found.inherited, response_id=response_id)
    return await context.execute(conversation_id, command, answer)


class _FoundItem(Struct, frozen=True):
    """An item, and where it was found.

    `inherited`: None if the item is the conversation's own. `forks`: the forks between this conversation and
    the item's own conversation.
    """

    event: ItemAppended
    inherited: KnownItem | None = None
    forks: tuple[str, ...] = ()


async def _find_item(reader: PrincipalReader, conversation_id: str, item_id: str, version: int) -> _FoundItem | None:
    own = await _appended(reader, PathSegment(conversation_id, version), item_id, any_branch=True)
    if own is not None:
        return _FoundItem(own)
    path = await read_path(reader, PathSegment(conversation_id, version))
    forks: list[str] = []
    for segment in reversed(path.segments[:-1]):
        event = await _appended(reader, segment, item_id)
        if event is not None:
            return _FoundItem(event, KnownItem(branch=0, depth=event.depth, inherited=True), tuple(forks))
        forks.append(segment.conversation_id)
    return None


async def _appended(
    reader: PrincipalReader, segment: PathSegment, item_id: str, *, any_branch: bool = False
) -> ItemAppended | None:
    for recorded in await reader.items(segment.conversation_id, [item_id], until=segment.version):
        event = recorded.event
        if isinstance(event, ItemAppended) and (
            any_branch or segment.contains(event.branch, event.depth, recorded.version)
        ):
            return event
    return None


async def _is_deleted_elsewhere(reader: PrincipalReader, found: _FoundItem) -> bool:
    """Whether the item is a copy of a deleted item, or is inherited and deleted in another conversation of the path."""
    if found.inherited is not None:
        items = {found.event.item_id: found.event.copy_of}
    else:
        items = dict.fromkeys(found.event.copy_of.split("/") if found.event.copy_of else ())
    return bool(await deleted_items(reader, items, found.forks))
