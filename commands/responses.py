"""Responses: create, cancel, delete, count input tokens."""

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from commands.access import check_may_write
from commands.command_route import APPEND_HEADERS, CommandContext, command_route
from commands.delete_reply import delete_reply
from commands.reply_input import take_input
from commands.reply_target import find_target
from commands.request_reply import (
    check_body,
    keeps_running,
    make_reply_request,
    request_reply,
    resolve_model,
)
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse, is_stored
from commands.start_reply import stream_of
from commands.target_context import assemble_context
from commands.unsent_input import check_outputs
from domain.events import ReplyCancelled
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.event_streams import EventStream
from infrastructure.http.headers import position_headers
from replies.client_disconnect import response_for_client
from replies.following import until_ended
from replies.record import find_record
from replies.recorded_reply import RecordedReply
from replies.response_shape import ResponseEvent, ResponseObject

CANCEL_TIMEOUT_SECONDS = 10.0
"""Longer than other processes need to end the reply of a process that died."""

router = APIRouter()


@command_route(
    router,
    "POST",
    "/v1/responses",
    CreateResponse,
    scope="reply",
    max_bytes=MAX_REQUEST_BYTES,
    keeps_answer=False,
    keep=lambda _, body: "stored" if is_stored(body) else "request",
    answer=ResponseObject,
    answer_headers=(*APPEND_HEADERS, "X-Context-Left-Out"),
    events=ResponseEvent,
    errors=(404, 502, 504),
)
async def create_response(context: CommandContext, body: CreateResponse) -> Response:
    """Requests a reply. Answers with the Response when the reply has ended.

    `on_busy` says what happens if another reply runs in the conversation. With `stream`: answers with the reply's
    events as they come. With `background` and without `stream`: answers at once with a queued Response.
    """
    check_body(body)
    reply = await request_reply(context, body)
    if body.stream:
        events, headers = await stream_of(reply, keep_running=keeps_running(context, body))
        return EventStream(events, headers, context.dependencies.comment_seconds)
    if isinstance(reply, RecordedReply):
        response, headers = await (reply.current_response() if body.background else reply.response())
        return shapes.json_response(response, headers=headers)
    if body.background:
        return shapes.json_response(reply.queued_response(), headers=reply.headers)
    response, headers = await response_for_client(
        reply, context.disconnected, keep_running=keeps_running(context, body)
    )
    return shapes.json_response(response, headers=headers)


class InputTokens(Struct, frozen=True, tag_field="object", tag="response.input_tokens"):
    """How many tokens a request for a reply would send to the model."""

    input_tokens: int


@command_route(
    router,
    "POST",
    "/v1/responses/input_tokens",
    CreateResponse,
    scope="reply",
    max_bytes=MAX_REQUEST_BYTES,
    keep=lambda _, __: "request",
    answer=InputTokens,
    answer_headers=(),
    errors=(404, 502, 504),
)
async def count_input_tokens(context: CommandContext, body: CreateResponse) -> Response:
    """Counts the tokens that a request for a reply would send, context included. Stores nothing.

    Answers `{object: "response.input_tokens", input_tokens}`.
    """
    check_body(body)
    if body.earlier is not None:
        message = f"The tokens of a request with `{body.earlier}` cannot be counted."
        raise ApiError(400, message, code="unsupported_parameter", param=body.earlier)
    target = await find_target(context, body, writes=False)
    model = await resolve_model(context, body.model)
    taken = await take_input(context, target, body.items())
    reply_request = make_reply_request(context, body, target, model, taken.items)
    model_context = await assemble_context(context, target, reply_request)
    check_outputs(reply_request, model_context)
    return shapes.json_response(InputTokens(input_tokens=model_context.shown.tokens))


@command_route(router, "POST", "/v1/responses/{response_id}/cancel", scope="reply", answer=ResponseObject)
async def cancel_response(context: CommandContext, response_id: str) -> Response:
    """Stops a reply that runs or waits, in any process. Its partial output stays in the Response.

    Waits up to 10 s for the reply to end, then answers with the Response. Cancelling a cancelled reply changes
    nothing. If the reply has ended and was not cancelled, the answer is 400.
    """
    reader = context.dependencies.reader
    record = await find_record(reader, response_id)
    check_may_write(context, record.conversation_id, record.head)
    if record.end is not None and not isinstance(record.end, ReplyCancelled):
        raise ApiError(400, f"Cannot cancel a {record.status} response.", code="response_over", param="response_id")
    if record.end is None:
        await context.dependencies.active_replies.cancel(context.principal.tenant, response_id)
        record = await until_ended(reader, record, CANCEL_TIMEOUT_SECONDS)
    headers = position_headers(record.last.position, record.last.version)
    return shapes.json_response(record.response(), headers=headers)


class ResponseDeleted(Struct, frozen=True, kw_only=True, tag_field="object", tag="response"):
    """The receipt of a deletion."""

    id: str
    deleted: bool


@command_route(router, "DELETE", "/v1/responses/{response_id}", answer=ResponseDeleted)
async def delete_response(context: CommandContext, response_id: str) -> Response:
    """Deletes the Response: every later request for it is answered with 404. A reply that runs or waits is cancelled.

    In a listed conversation, the items that the reply added stay. In an unlisted conversation, which the store made for a chain of
    responses, these items are deleted. If nothing else is left there, the conversation is deleted too. Answers with a receipt.
    """
    return await delete_reply(context, response_id, shapes.encode(ResponseDeleted(id=response_id, deleted=True)))
