"""Writes another version of an item on a branch, and moves the head."""

from typing import ClassVar

from fastapi import APIRouter
from starlette.responses import Response

from commands.access import readable_conversation
from commands.answers import conversation_answer
from commands.bodies import Body, examples, new_item
from commands.command_route import CommandContext, command_route
from commands.item_places import place_of
from commands.other_apis import OTHER_NAMES_OF_ITEM
from commands.path_links import linked_to_segment
from domain.commands import MoveHead, ReviseItem
from domain.events import ItemAppended
from domain.items import as_output
from domain.paths import PathSegment
from infrastructure.event_log.append_request import Appended
from infrastructure.http.body import MAX_ITEMS_BODY_BYTES
from infrastructure.http.item_schemas import InputItemJson, Item
from infrastructure.http.path_ids import check_id
from infrastructure.http.shapes import Conversation

router = APIRouter()


class NewVersion(Body):
    """The item that is written in place of another one."""

    OTHER_NAMES: ClassVar = OTHER_NAMES_OF_ITEM
    model_config = examples({"item": {"type": "message", "role": "user", "content": "And in spring?"}})

    item: InputItemJson


@command_route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}/items/{item_id}",
    NewVersion,
    max_bytes=MAX_ITEMS_BODY_BYTES,
    answer=Item,
)
async def revise_item(context: CommandContext, conversation_id: str, item_id: str, body: NewVersion) -> Response:
    """Writes another item in the place of this one, on a new branch, and moves the head there. Answers with the new item.

    The old item, and what follows it, stay readable on their branch. In a fork, an inherited item is revised in the fork alone.
    """
    version = (await readable_conversation(context, conversation_id)).version
    found = await place_of(context, conversation_id, version, item_id)
    path = PathSegment(conversation_id, version, found.parent.path)
    [item] = await linked_to_segment(context, path, (new_item(body.item, "item"),))
    command = ReviseItem(
        item_id=item_id, item=item, author=context.principal.subject, leaf=found.parent, inherited=found.inherited
    )
    return await context.execute(conversation_id, command, _new_item)


def _new_item(appended: Appended) -> bytes:
    [event] = [event for event in appended.events if isinstance(event, ItemAppended)]
    return as_output(event.item_id, event.item)


class NewHead(Body):
    """`item`: the id of any item of the conversation, on any branch, or of an item that it inherits."""

    model_config = examples({"item": "msg_019af3c5d2e07c31a7b1f0c1d2e3f405"})

    item: str


@command_route(router, "POST", "/v1/conversations/{conversation_id}/head", NewHead, answer=Conversation)
async def move_head(context: CommandContext, conversation_id: str, body: NewHead) -> Response:
    """Moves the head to this item: models are shown the items up to it, and what is appended next comes after it, on a new branch.

    Nothing is rewritten. Answers with the Conversation. If the item is the head already, nothing changes.
    """
    item_id = check_id(body.item, None, "item")
    version = (await readable_conversation(context, conversation_id)).version
    found = await place_of(context, conversation_id, version, item_id)
    command = MoveHead(item_id=item_id, path=found.leaf.path, inherited=found.inherited)
    return await context.execute(conversation_id, command, conversation_answer)
