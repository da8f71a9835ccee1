"""DELETE /v1/responses/{id}: the response can no longer be asked for; items that joined its conversation stay there."""

from fastapi import Response

from commands.command_context import CommandContext
from commands.command_route import verb
from domain.commands import DeleteReply
from domain.errors import ConversationNotFound, ResponseNotFound
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes

router, serves = verb("DELETE", "/v1/responses/{response_id}")


@serves
async def delete_response(context: CommandContext, response_id: str) -> Response:
    """Answers that it is deleted; 409 while it runs."""
    conversation_id = await context.dependencies.reader.conversation_of(context.principal.tenant, response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)

    def answer(_: Appended) -> bytes:
        return shapes.encode({"id": response_id, "object": "response", "deleted": True})

    try:
        return await context.carry_out(conversation_id, DeleteReply(response_id=response_id), answer)
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error
