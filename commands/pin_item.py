"""POST /v1/conversations/{id}/items/{item}/pin: the item is shown to models whatever else fits."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import PinItem

router, serves = verb("POST", "/v1/conversations/{conversation_id}/items/{item_id}/pin")


@serves
async def pin_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Answers with the Conversation. Pinning what is pinned changes nothing."""
    return await context.carry_out(conversation_id, PinItem(item_id=item_id), conversation_answer)
