"""POST /v1/conversations/{id}/items/{item}/unpin: the item is shown to models as long as it fits, as any other."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import UnpinItem

router, serves = verb("POST", "/v1/conversations/{conversation_id}/items/{item_id}/unpin")


@serves
async def unpin_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Answers with the Conversation. Unpinning what is not pinned changes nothing."""
    return await context.carry_out(conversation_id, UnpinItem(item_id=item_id), conversation_answer)
