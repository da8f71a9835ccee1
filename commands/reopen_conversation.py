"""POST /v1/conversations/{id}/reopen: an ended conversation goes on."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import ReopenConversation

router, serves = verb("POST", "/v1/conversations/{conversation_id}/reopen")


@serves
async def reopen_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Answers with the Conversation. Reopening one that is active changes nothing."""
    return await context.carry_out(conversation_id, ReopenConversation(), conversation_answer)
