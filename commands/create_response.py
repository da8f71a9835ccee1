"""POST /v1/responses: asks a model for a reply, in a conversation, behind another response, or on its own."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from fastapi import Response
from fastapi.responses import StreamingResponse
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from commands.command_context import Caller
from commands.command_route import verb
from commands.reply_target import Place, place_of
from commands.response_body import LARGEST_INPUT, LARGEST_REQUEST, CreateResponse
from commands.summarize import make_room
from context.assembly import Asked, Context
from context.history_backwards import Tail
from context.rendering.expressible import inexpressible
from context.rendering.orphans import call_key, is_output
from domain.commands import NewItem, RequestReply
from domain.errors import ConversationLocked, HeadHasMoved, Refused
from domain.events import InputItem
from domain.items import as_output, from_stored
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.event_log.log import utc_now
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.ids import CONVERSATION, RESPONSE, is_id, mint
from replies.client_disconnect import heard, streamed
from replies.recorded_reply import Kept, RecordedReply
from replies.running_reply import Reply

_SSE = "text/event-stream; charset=utf-8"
_STREAMED = {"cache-control": "no-cache", "x-accel-buffering": "no"}

router, serves = verb("POST", "/v1/responses", CreateResponse, largest=LARGEST_REQUEST)


@serves
async def create_response(called: Caller, body: CreateResponse) -> Response:
    """Answers with the Response, or with its stream of events; at once with a queued one where it is for the background."""
    await body.check()
    reply = await _request_reply(body, called)
    goes_on = bool(body.background) or (called.idempotency is not None and body.stored)
    if isinstance(reply, RecordedReply):
        if body.stream:
            return _stream(reply.stream(await reply.recorded()), await reply.begun())
        answer, headers = await (reply.now() if body.background else reply.whole())
        return shapes.json_response(answer, headers=headers)
    if body.stream:
        return _stream(streamed(reply, goes_on), await reply.begun())
    answer, headers = reply.queued() if body.background else await heard(reply, called.hung_up, goes_on)
    return shapes.json_response(answer, headers=headers)


def _stream(sent: AsyncIterator[bytes], headers: dict[str, str]) -> Response:
    return StreamingResponse(sent, media_type=_SSE, headers={**headers, **_STREAMED})


async def _request_reply(body: CreateResponse, called: Caller) -> Reply | RecordedReply:
    """Puts on record what is asked and what the model is shown; nothing is on record when any of it is refused."""
    if (recorded := await _recorded(body, called)) is not None:
        return recorded
    try:
        return await _ask_in_place(body, called)
    except (ApiError, Refused, VersionMismatch):
        # What refuses it may come of this very request, which was sent before, and was not on record a moment ago.
        if (recorded := await _recorded(body, called)) is None:
            raise
        return recorded


async def _ask_in_place(body: CreateResponse, called: Caller) -> Reply | RecordedReply:
    """Where it belongs; or in a fork, where another was quicker to go on from the same response."""
    items = body.items()
    model = await model_of(body, called)
    place, early = await asyncio.gather(place_of(called, body), _early_snapshot(body, called, model))
    try:
        return await _ask(body, called, replace(place, snapshot=early), model, items)
    except (HeadHasMoved, ConversationLocked):
        if not place.in_place:
            raise
        return await _ask(body, called, place.beside(), model, items)


async def _recorded(body: CreateResponse, called: Caller) -> RecordedReply | None:
    """The reply that an earlier request of this key was answered with."""
    if called.idempotency is None or not body.stored:
        return None
    wiring = called.wiring
    first = await wiring.reader.first_answer(
        called.principal.tenant, called.idempotency, since=utc_now() - wiring.keep_keys
    )
    return None if first is None else RecordedReply(called, msgspec.json.decode(first.answer, type=Kept))


async def _early_snapshot(body: CreateResponse, called: Caller, model: str) -> Tail | UnsetType | None:
    """The conversation's snapshot, asked for while it is looked up whether there is such a conversation; UNSET where none is named."""
    ident = body.conversation_id
    if ident is None or not is_id(ident, CONVERSATION):
        return UNSET
    return await called.wiring.contexts.snapshot(called.principal.tenant, ident, model)


async def model_of(body: CreateResponse, called: Caller) -> str:
    """The model to ask. Raises ApiError (400) where it is not known, ModelFailed where nobody can say which there is."""
    model = called.wiring.model
    if body.model is None:
        return await model.default_model(called.principal.tenant)
    if not await model.known(body.model):
        message = f"The requested model {body.model[:64]!r} does not exist."
        raise ApiError(400, message, code="model_not_found", param="model")
    return body.model


async def _ask(
    body: CreateResponse, called: Caller, place: Place, model: str, given: tuple[NewItem, ...]
) -> Reply | RecordedReply:
    items = (*place.taken_up, *given)
    asked = what_is_asked(body, called, place, model, items)
    if called.if_match is not None and place.version not in called.if_match:
        raise VersionMismatch(place.version)
    if place.shown_of is None or place.forks or not body.stored:
        context = await context_of(called, place, asked)
    else:
        version, context = await make_room(called, place.shown_of, place.version, asked, place.snapshot)
        if called.if_match is not None:
            called = replace(called, if_match=frozenset({version}))  # a summary was made, nothing else
    check_outputs(asked, context)
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=msgspec.json.encode(asked.parameters),
        input=tuple(InputItem(item_id=new.item_id, item=new.item) for new in items),
        shown=context.shown,
        start=None if place.in_place else place.start,
        below=place.below if place.in_place else UNSET,
    )
    if not body.stored:
        return _begun(Reply(called, "", command, context.body, None))
    kept = msgspec.json.encode(Kept(place.conversation_id, command.response_id))
    requested = await called.append(place.conversation_id, command, lambda _: kept)
    if requested.replayed:
        assert requested.answer is not None
        return RecordedReply(called, msgspec.json.decode(requested.answer, type=Kept))
    return _begun(Reply(called, place.conversation_id, command, context.body, requested))


def _begun(reply: Reply) -> Reply:
    reply.called.wiring.running.begin(reply)
    return reply


def what_is_asked(body: CreateResponse, called: Caller, place: Place, model: str, items: tuple[NewItem, ...]) -> Asked:
    """Raises ApiError for what the provider's API can not express (400), and for too much (413)."""
    if place.taken_up and sum(len(as_output(new.item_id, new.item)) for new in items) > LARGEST_INPUT:
        message = f"`input` and what the previous response was asked are larger than {LARGEST_INPUT} bytes together."
        raise ApiError(413, message, code="request_too_large", param="previous_response_id")
    asked = Asked(
        model=model, parameters=body.parameters(), input=[(new.item_id, from_stored(new.item)) for new in items]
    )
    new = [item for _, item in asked.input[len(place.taken_up) :]]
    if (refusal := inexpressible(called.wiring.model.renderer, asked.parameters, new)) is not None:
        param, message = refusal
        raise ApiError(400, message, code="unsupported_parameter", param=param)
    return asked


async def context_of(called: Caller, place: Place, asked: Asked) -> Context:
    """What the model is shown as things stand. Raises ContextTooLong."""
    contexts = called.wiring.contexts
    if place.forks:
        assert place.start is not None
        return await contexts.of_fork(place.start, asked)
    return await contexts.assemble(called.principal.tenant, place.shown_of, place.version, asked)


def check_outputs(asked: Asked, context: Context) -> None:
    """Raises ApiError (400) for an output in the input that answers no call."""
    for ident, item in asked.input:
        if is_output(item) and call_key(item) is not None and ident not in context.sent:
            call_id = str(item.get("call_id"))[:64]
            raise ApiError(400, f"No tool call found for tool output with call_id {call_id}.", param="input")
