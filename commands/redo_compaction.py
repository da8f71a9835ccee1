"""POST /v1/conversations/{id}/compact/redo: the summary that was undone last stands again."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import RedoCompaction

router, serves = verb("POST", "/v1/conversations/{conversation_id}/compact/redo")


@serves
async def redo_compaction(context: CommandContext, conversation_id: str) -> Response:
    """Answers with the Conversation."""
    return await context.carry_out(conversation_id, RedoCompaction(), conversation_answer)
