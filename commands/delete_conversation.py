"""DELETE /v1/conversations/{id}: from then on the conversation is a 404 to everyone."""

from fastapi import Response

from commands.carry_out import Called
from domain.commands import DeleteConversation
from infrastructure.event_log.work import Appended
from infrastructure.http import shapes
from infrastructure.http.app import strict_router
from infrastructure.http.paths import ConversationId

router = strict_router("conversations")


@router.delete("/v1/conversations/{conversation_id}")
async def delete_conversation(conversation_id: ConversationId, called: Called) -> Response:
    """Answers with a receipt."""
    return await called.carry_out(conversation_id, DeleteConversation(), _receipt)


def _receipt(appended: Appended) -> bytes:
    return shapes.encode({"id": appended.conversation.id, "object": "conversation.deleted", "deleted": True})
