"""POST /v1/responses/{id}/cancel: stops a reply, whichever process runs it; what it had said stays with the response."""

from fastapi import Response

from commands.command_context import CommandContext
from commands.command_route import verb
from domain.events import ReplyCancelled
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import placed
from replies.following import until_over
from replies.record import Record, find, read

WAIT_SECONDS = 10.0
"""Longer than it takes to find that the process which ran it is dead."""

router, serves = verb("POST", "/v1/responses/{response_id}/cancel")


@serves
async def cancel_response(context: CommandContext, response_id: str) -> Response:
    """Answers with the Response; the same again for one that was cancelled before. 400 when it ended otherwise."""
    reader = context.dependencies.reader
    record = await find(reader, context.principal.tenant, response_id)
    if record.end is not None and not isinstance(record.end, ReplyCancelled):
        raise ApiError(400, f"Cannot cancel a {record.status} response.", code="response_over", param="response_id")
    if record.end is None:
        await context.dependencies.running.cancel(context.principal.tenant, response_id)

        async def look() -> Record:
            return await read(reader, record.conversation_id, response_id)

        record = await until_over(look, record, WAIT_SECONDS)
    headers = placed(record.last.position, record.last.version)
    return shapes.json_response(record.response(), headers=headers)
