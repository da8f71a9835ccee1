"""Adds and deletes items of a conversation."""

from typing import ClassVar

from fastapi import APIRouter
from starlette.responses import Response

from commands.answers import conversation_answer
from commands.bodies import Body, Items, examples, new_items
from commands.command_route import CommandContext, command_route
from commands.inherited_items import execute_on_item
from commands.item_links import LINKING
from commands.other_apis import OTHER_NAMES_OF_ITEMS
from commands.path_links import linked_to_conversation
from domain.commands import AppendItems, RetractItem
from domain.events import ItemAppended
from domain.items import as_output, type_of
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.body import MAX_ITEMS_BODY_BYTES
from infrastructure.http.item_schemas import ItemList
from infrastructure.http.shapes import Conversation

router = APIRouter()


class AddItems(Body):
    """Items to append, in this order."""

    OTHER_NAMES: ClassVar = OTHER_NAMES_OF_ITEMS
    model_config = examples(
        {"items": [{"type": "message", "role": "user", "content": "And in winter?"}]},
        {"items": [{"type": "function_call_output", "call_id": "call_1", "output": "-3 °C"}]},
    )

    items: Items


@command_route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}/items",
    AddItems,
    max_bytes=MAX_ITEMS_BODY_BYTES,
    answer=ItemList,
)
async def add_items(context: CommandContext, conversation_id: str, body: AddItems) -> Response:
    """Appends all the items or none. Answers with their list. An empty list adds nothing."""
    items = new_items(body.items)
    if any(type_of(item) in LINKING for item in body.items):
        items = await linked_to_conversation(context, conversation_id, items)
    command = AppendItems(items=items, author=context.principal.subject)
    return await context.execute(conversation_id, command, _added)


def _added(appended: Appended) -> bytes:
    added = [event for event in appended.events if isinstance(event, ItemAppended)]
    bodies = [as_output(event.item_id, event.item) for event in added]
    return shapes.item_list(bodies, [event.item_id for event in added], has_more=False)


@command_route(router, "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", answer=Conversation)
async def delete_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Hides the item from readers and models; the log keeps it. Answers with the Conversation, as the OpenAI API does.

    In a fork, an inherited item is hidden in this fork and in the forks of this fork. The conversation that it belongs to keeps it.
    """
    return await execute_on_item(context, conversation_id, item_id, RetractItem, conversation_answer)
