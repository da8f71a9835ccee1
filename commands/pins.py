"""Pins and unpins items."""

from fastapi import APIRouter
from starlette.responses import Response

from commands.answers import conversation_answer
from commands.command_route import CommandContext, command_route
from commands.inherited_items import execute_on_item
from domain.commands import PinItem, UnpinItem
from infrastructure.http.shapes import Conversation

router = APIRouter()


@command_route(router, "POST", "/v1/conversations/{conversation_id}/items/{item_id}/pin", answer=Conversation)
async def pin_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Pins the item. Answers with the Conversation. Pinning a pinned item changes nothing."""
    return await execute_on_item(context, conversation_id, item_id, PinItem, conversation_answer)


@command_route(router, "POST", "/v1/conversations/{conversation_id}/items/{item_id}/unpin", answer=Conversation)
async def unpin_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Unpins the item. Answers with the Conversation. Unpinning an item that is not pinned changes nothing."""
    return await execute_on_item(context, conversation_id, item_id, UnpinItem, conversation_answer)
