"""POST /v1/conversations/{id}/end: nothing more may be said in it until it is reopened."""

from typing import Annotated

from fastapi import Response
from pydantic import StringConstraints

from commands.bodies import MAX_TEXT_LENGTH, Body
from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import EndConversation as End


class EndConversation(Body):
    reason: Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH)] | None = None


router, serves = verb("POST", "/v1/conversations/{conversation_id}/end", EndConversation, optional=True)


@serves
async def end_conversation(context: CommandContext, conversation_id: str, body: EndConversation | None) -> Response:
    """Answers with the Conversation. Ending one that has ended changes nothing."""
    return await context.carry_out(conversation_id, End(reason=body.reason if body else None), conversation_answer)
