"""POST /v1/conversations/{id}/reopen: an ended conversation goes on."""

from fastapi import Response

from commands.carry_out import Called, conversation_answer
from domain.commands import ReopenConversation
from infrastructure.http.app import strict_router
from infrastructure.http.paths import ConversationId

router = strict_router("conversations")


@router.post("/v1/conversations/{conversation_id}/reopen")
async def reopen_conversation(conversation_id: ConversationId, called: Called) -> Response:
    """Answers with the Conversation. Reopening one that is active changes nothing."""
    return await called.carry_out(conversation_id, ReopenConversation(), conversation_answer)
