"""POST /v1/conversations/{id}/end: nothing more may be said in it until it is reopened."""

from typing import Annotated

from fastapi import Response
from pydantic import StringConstraints

from commands.bodies import LONGEST_TEXT, Body
from commands.carry_out import Called, conversation_answer
from domain.commands import EndConversation as End
from infrastructure.http.app import strict_router
from infrastructure.http.paths import ConversationId

router = strict_router("conversations")


class EndConversation(Body):
    reason: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] | None = None


@router.post("/v1/conversations/{conversation_id}/end")
async def end_conversation(
    conversation_id: ConversationId, called: Called, body: EndConversation | None = None
) -> Response:
    """Answers with the Conversation. Ending one that has ended changes nothing."""
    return await called.carry_out(conversation_id, End(reason=body.reason if body else None), conversation_answer)
