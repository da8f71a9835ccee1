"""POST /v1/responses: asks a model for a reply, in a conversation, behind another response, or on its own."""

import asyncio

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from commands.command_context import CommandContext
from commands.reply_target import ReplyTarget, place_of
from commands.response_body import MAX_INPUT_BYTES, CreateResponse
from commands.summarize import make_room
from context.assembly import Context, ReplyRequest
from context.history_backwards import RecentItems
from context.rendering.orphans import call_key, is_output
from context.rendering.unsupported import first_unsupported
from domain.commands import NewItem, RequestReply
from domain.errors import ConversationLocked, HeadHasMoved, Refused
from domain.events import InputItem
from domain.items import as_output, from_stored
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.event_log.log import utc_now
from infrastructure.http.errors import ApiError
from infrastructure.ids import CONVERSATION, RESPONSE, is_id, mint
from replies.recorded_reply import Kept, RecordedReply
from replies.running_reply import Reply


async def request_reply(body: CreateResponse, context: CommandContext) -> Reply | RecordedReply:
    """Puts on record what is asked and what the model is shown; nothing is on record when any of it is refused."""
    if (recorded := await _recorded(body, context)) is not None:
        return recorded
    try:
        return await _ask_in_place(body, context)
    except (ApiError, Refused, VersionMismatch):
        # What refuses it may come of this very request, which was sent before, and was not on record a moment ago.
        if (recorded := await _recorded(body, context)) is None:
            raise
        return recorded


async def _ask_in_place(body: CreateResponse, context: CommandContext) -> Reply | RecordedReply:
    """Where it belongs; or in a fork, where another was quicker to go on from the same response."""
    items = body.items()
    model = await model_of(body, context)
    place, early = await asyncio.gather(place_of(context, body), _early_snapshot(body, context, model))
    try:
        return await _ask(body, context, replace(place, snapshot=early), model, items)
    except (HeadHasMoved, ConversationLocked):
        if not place.in_place:
            raise
        return await _ask(body, context, place.beside(), model, items)


async def _recorded(body: CreateResponse, context: CommandContext) -> RecordedReply | None:
    """The reply that an earlier request of this key was answered with."""
    if context.idempotency is None or not body.stored:
        return None
    dependencies = context.dependencies
    first = await dependencies.reader.first_answer(
        context.principal.tenant, context.idempotency, since=utc_now() - dependencies.keep_keys
    )
    return None if first is None else RecordedReply(context, msgspec.json.decode(first.answer, type=Kept))


async def _early_snapshot(body: CreateResponse, context: CommandContext, model: str) -> RecentItems | UnsetType | None:
    """The conversation's snapshot, asked for while it is looked up whether there is such a conversation; UNSET where none is named."""
    ident = body.conversation_id
    if ident is None or not is_id(ident, CONVERSATION):
        return UNSET
    return await context.dependencies.contexts.snapshot(context.principal.tenant, ident, model)


async def model_of(body: CreateResponse, context: CommandContext) -> str:
    """The model to ask. Raises ApiError (400) where it is not known, ModelFailed where nobody can say which there is."""
    provider = context.dependencies.provider
    if body.model is None:
        return await provider.default_model(context.principal.tenant)
    if not await provider.has_model(body.model):
        message = f"The requested model {body.model[:64]!r} does not exist."
        raise ApiError(400, message, code="model_not_found", param="model")
    return body.model


async def _ask(
    body: CreateResponse, context: CommandContext, place: ReplyTarget, model: str, given: tuple[NewItem, ...]
) -> Reply | RecordedReply:
    items = (*place.taken_up, *given)
    asked = what_is_asked(body, context, place, model, items)
    if context.if_match is not None and place.version not in context.if_match:
        raise VersionMismatch(place.version)
    if place.shown_of is None or place.forks or not body.stored:
        shown_context = await context_of(context, place, asked)
    else:
        version, shown_context = await make_room(context, place.shown_of, place.version, asked, place.snapshot)
        if context.if_match is not None:
            context = replace(context, if_match=frozenset({version}))  # a summary was made, nothing else
    check_outputs(asked, shown_context)
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=msgspec.json.encode(asked.parameters),
        input=tuple(InputItem(item_id=new.item_id, item=new.item) for new in items),
        shown=shown_context.shown,
        start=None if place.in_place else place.start,
        expected_head=place.expected_head if place.in_place else UNSET,
    )
    if not body.stored:
        return _begun(Reply(context, "", command, shown_context.body, None))
    kept = msgspec.json.encode(Kept(place.conversation_id, command.response_id))
    requested = await context.append(place.conversation_id, command, lambda _: kept)
    if requested.replayed:
        assert requested.answer is not None
        return RecordedReply(context, msgspec.json.decode(requested.answer, type=Kept))
    return _begun(Reply(context, place.conversation_id, command, shown_context.body, requested))


def _begun(reply: Reply) -> Reply:
    reply.context.dependencies.running.begin(reply)
    return reply


def what_is_asked(
    body: CreateResponse, context: CommandContext, place: ReplyTarget, model: str, items: tuple[NewItem, ...]
) -> ReplyRequest:
    """Raises ApiError for what the provider's API can not express (400), and for too much (413)."""
    if place.taken_up and sum(len(as_output(new.item_id, new.item)) for new in items) > MAX_INPUT_BYTES:
        message = f"`input` and what the previous response was asked are larger than {MAX_INPUT_BYTES} bytes together."
        raise ApiError(413, message, code="request_too_large", param="previous_response_id")
    asked = ReplyRequest(
        model=model, parameters=body.parameters(), input=[(new.item_id, from_stored(new.item)) for new in items]
    )
    new = [item for _, item in asked.input[len(place.taken_up) :]]
    if (refusal := first_unsupported(context.dependencies.models.renderer, asked.parameters, new)) is not None:
        param, message = refusal
        raise ApiError(400, message, code="unsupported_parameter", param=param)
    return asked


async def context_of(context: CommandContext, place: ReplyTarget, asked: ReplyRequest) -> Context:
    """What the model is shown as things stand. Raises ContextTooLong."""
    contexts = context.dependencies.contexts
    if place.forks:
        assert place.start is not None
        return await contexts.assemble_fork(place.start, asked)
    return await contexts.assemble(context.principal.tenant, place.shown_of, place.version, asked)


def check_outputs(asked: ReplyRequest, shown_context: Context) -> None:
    """Raises ApiError (400) for an output in the input that answers no call."""
    for ident, item in asked.input:
        if is_output(item) and call_key(item) is not None and ident not in shown_context.sent_ids:
            call_id = str(item.get("call_id"))[:64]
            raise ApiError(400, f"No tool call found for tool output with call_id {call_id}.", param="input")
