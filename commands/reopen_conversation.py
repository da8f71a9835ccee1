"""POST /v1/conversations/{id}/reopen: an ended conversation goes on."""

from fastapi import Response

from commands.command_context import Caller, conversation_answer
from commands.command_route import verb
from domain.commands import ReopenConversation

router, serves = verb("POST", "/v1/conversations/{conversation_id}/reopen")


@serves
async def reopen_conversation(called: Caller, conversation_id: str) -> Response:
    """Answers with the Conversation. Reopening one that is active changes nothing."""
    return await called.carry_out(conversation_id, ReopenConversation(), conversation_answer)
