"""DELETE /v1/conversations/{id}/items/{item}: the item is no longer shown, to people or models; the log keeps it."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import RetractItem

router, serves = verb("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}")


@serves
async def delete_item(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Answers with the Conversation, as the OpenAI API does."""
    return await context.carry_out(conversation_id, RetractItem(item_id=item_id), conversation_answer)
