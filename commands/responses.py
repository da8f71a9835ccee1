"""Responses: create, cancel, delete, count input tokens. `compact_response.py` has the one other route."""

from collections.abc import AsyncIterator

from fastapi import Response
from fastapi.responses import StreamingResponse

from commands.command_context import CommandContext
from commands.command_route import command_route, command_router
from commands.reply_target import place_of
from commands.request_reply import check_outputs, context_of, model_of, request_reply, what_is_asked
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse
from domain.commands import DeleteReply
from domain.errors import ConversationNotFound, ResponseNotFound
from domain.events import ReplyCancelled
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import placed
from replies.client_disconnect import heard, streamed
from replies.following import until_over
from replies.record import Record, find, read
from replies.recorded_reply import RecordedReply

CANCEL_TIMEOUT_SECONDS = 10.0
"""Longer than it takes to find out that the process which runs the reply is dead."""

_SSE = "text/event-stream; charset=utf-8"
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

router = command_router()


@command_route(router, "POST", "/v1/responses", CreateResponse, largest=MAX_REQUEST_BYTES)
async def create_response(context: CommandContext, body: CreateResponse) -> Response:
    """Answers with the Response, or with its stream of events. With `background` it answers at once, with a queued Response."""
    await body.check()
    reply = await request_reply(body, context)
    goes_on = bool(body.background) or (context.idempotency is not None and body.stored)
    if isinstance(reply, RecordedReply):
        if body.stream:
            return _stream(reply.stream(await reply.recorded()), await reply.begun())
        answer, headers = await (reply.now() if body.background else reply.whole())
        return shapes.json_response(answer, headers=headers)
    if body.stream:
        return _stream(streamed(reply, goes_on), await reply.begun())
    answer, headers = reply.queued() if body.background else await heard(reply, context.hung_up, goes_on)
    return shapes.json_response(answer, headers=headers)


def _stream(events: AsyncIterator[bytes], headers: dict[str, str]) -> Response:
    return StreamingResponse(events, media_type=_SSE, headers={**headers, **_STREAM_HEADERS})


@command_route(router, "POST", "/v1/responses/input_tokens", CreateResponse, largest=MAX_REQUEST_BYTES)
async def count_input_tokens(context: CommandContext, body: CreateResponse) -> Response:
    """Counts what a request for a reply would send, context included. Stores nothing. Answers `{object: "response.input_tokens", input_tokens}`."""
    await body.check()
    place = await place_of(context, body)
    model = await model_of(body, context)
    asked = what_is_asked(body, context, place, model, (*place.taken_up, *body.items()))
    shown_context = await context_of(context, place, asked)
    check_outputs(asked, shown_context)
    return shapes.json_response({"object": "response.input_tokens", "input_tokens": shown_context.shown.tokens})


@command_route(router, "POST", "/v1/responses/{response_id}/cancel")
async def cancel_response(context: CommandContext, response_id: str) -> Response:
    """Stops a running reply in whichever process it runs; its partial output stays with the Response.

    Answers with the Response; 400 when it ended otherwise. Cancelling a cancelled one changes nothing.
    """
    reader = context.dependencies.reader
    record = await find(reader, context.principal.tenant, response_id)
    if record.end is not None and not isinstance(record.end, ReplyCancelled):
        raise ApiError(400, f"Cannot cancel a {record.status} response.", code="response_over", param="response_id")
    if record.end is None:
        await context.dependencies.running.cancel(context.principal.tenant, response_id)

        async def look() -> Record:
            return await read(reader, record.conversation_id, response_id)

        record = await until_over(look, record, CANCEL_TIMEOUT_SECONDS)
    headers = placed(record.last.position, record.last.version)
    return shapes.json_response(record.response(), headers=headers)


@command_route(router, "DELETE", "/v1/responses/{response_id}")
async def delete_response(context: CommandContext, response_id: str) -> Response:
    """From now on the Response is a 404; items that joined its conversation stay there. Answers with a receipt; 409 while it runs."""
    conversation_id = await context.dependencies.reader.conversation_of(context.principal.tenant, response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)

    def receipt(_: Appended) -> bytes:
        return shapes.encode({"id": response_id, "object": "response", "deleted": True})

    try:
        return await context.execute(conversation_id, DeleteReply(response_id=response_id), receipt)
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error
