"""POST /v1/conversations/{id}/compact/undo: models are shown the summary before the last one again, or the items themselves."""

from fastapi import Response

from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import UndoCompaction

router, serves = verb("POST", "/v1/conversations/{conversation_id}/compact/undo")


@serves
async def undo_compaction(context: CommandContext, conversation_id: str) -> Response:
    """Answers with the Conversation."""
    return await context.carry_out(conversation_id, UndoCompaction(), conversation_answer)
