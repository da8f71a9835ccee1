"""DELETE /v1/conversations/{id}: from then on the conversation is a 404 to everyone."""

from fastapi import Response

from commands.command_context import CommandContext
from commands.command_route import verb
from domain.commands import DeleteConversation
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes

router, serves = verb("DELETE", "/v1/conversations/{conversation_id}")


@serves
async def delete_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Answers with a receipt."""
    return await context.carry_out(conversation_id, DeleteConversation(), _receipt)


def _receipt(appended: Appended) -> bytes:
    return shapes.encode({"id": appended.conversation.id, "object": "conversation.deleted", "deleted": True})
