"""Requests a reply: finds its target, assembles its context, appends the request, and starts the reply."""

import asyncio
import re
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from commands.access import head_is_busy
from commands.command_route import CommandContext
from commands.matched_input import MatchedInput, match_input
from commands.queued_replies import queue_reply
from commands.regenerated_reply import find_regenerated
from commands.repeat_request import repeat_stored, repeat_unstored
from commands.reply_input import TakenInput, TakenItem, take_input
from commands.reply_target import ReplyTarget, find_target
from commands.response_body import MAX_INPUT_BYTES, CreateResponse
from commands.response_schemas import check_schemas
from commands.retried_reply import find_retried
from commands.rolling_summary import context_with_summary
from commands.start_reply import Reply, append_and_start, request_unless_repeated, start_reply
from commands.target_context import assemble_context
from commands.unsent_input import check_outputs
from context.choice import ReplyRequest
from context.history_backwards import RecentItems
from context.rendering import uses_responses_api
from context.rendering.unsupported import first_unsupported
from domain.commands import QueueReply, RequestReply
from domain.errors import (
    ConversationIsEnded,
    ConversationLocked,
    HeadHasMoved,
    InputHasJoined,
    ItemsDeleted,
    PathHasChanged,
    TooManyBranches,
)
from domain.events import InputItem, Transcript
from domain.items import as_output, from_stored
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.http.errors import ApiError
from infrastructure.ids import CONVERSATION, RESPONSE, is_id, mint
from replies.reply_end import PrefixesOf

MAX_COMPARISONS = 10


def check_body(body: CreateResponse) -> None:
    """Raises ApiError (400). With `retry` or `regenerate`, most checks come later."""
    body.check()
    if body.earlier is None:
        check_schemas(body.schemas())


async def request_reply(context: CommandContext, body: CreateResponse) -> Reply:
    """Starts a reply, or queues it. A repeat gets the reply of the first request."""
    if body.on_busy == "interrupt" and context.if_match is not None:
        message = "`on_busy: interrupt` stops the running reply, which changes the version. So it cannot be used with `If-Match`."
        raise ApiError(400, message, code="mutually_exclusive_parameters", param="on_busy")
    return await request_unless_repeated(
        context, lambda: _request_reply(context, body), stored=body.stored, background=bool(body.background)
    )


def keeps_running(context: CommandContext, body: CreateResponse) -> bool:
    """Whether the reply goes on if its client disconnects. The conversation's policy may also keep the reply running."""
    return bool(body.background) or (context.idempotency is not None and body.stored)


async def _request_reply(context: CommandContext, body: CreateResponse) -> Reply:
    """Tries again if the conversation changed after it was read, except with If-Match."""
    for _ in range(MAX_COMPARISONS):
        try:
            if body.earlier is not None:
                return await _request_again(context, body)
            return await _request_at_target(context, body)
        except (VersionMismatch, ItemsDeleted, InputHasJoined, PathHasChanged):
            if context.if_match is not None:
                raise
    message = "The conversation kept changing while the request was compared with it. Try again."
    raise ApiError(409, message, code="conversation_changed", retry=True)


async def _request_at_target(context: CommandContext, body: CreateResponse) -> Reply:
    """Tries the target, then its fallbacks."""
    given = body.items()
    model = await resolve_model(context, body.model)
    matched = await match_input(context, body, given)
    target, snapshot = await asyncio.gather(_target(context, body, matched), _read_snapshot(context, body, model))
    if snapshot is UNSET and target.source is not None and target.fork is None:
        snapshot = await context.dependencies.contexts.snapshot(target.source, model)
    target = replace(target, snapshot=snapshot)
    taken = await take_input(context, target, given, matched.repeated if matched else 0)
    if body.may_wait and await head_is_busy(context, target.conversation_id):
        return await _queue(context, body, target, model, taken)
    while True:
        try:
            return await _request_at(context, body, target, model, taken, matched=matched)
        except (HeadHasMoved, ConversationLocked, ConversationIsEnded, TooManyBranches) as refusal:
            if body.may_wait and isinstance(refusal, ConversationLocked):
                return await _queue(context, body, target, model, taken)
            names_the_conversation = matched is None
            if target.fallback is None or (names_the_conversation and isinstance(refusal, ConversationIsEnded)):
                raise
            target = target.fallback


async def _request_again(context: CommandContext, body: CreateResponse) -> Reply:
    """Requests a `retry` or a `regenerate`."""
    if body.retry is not None:
        request = await find_retried(context, body, body.retry)
    else:
        request = await find_regenerated(context, body, body.regenerate or "")
    model = await resolve_model(context, request.body.model)
    return await _request_at(context, request.body, request.target, model, request.taken, matched=None)


async def _target(context: CommandContext, body: CreateResponse, matched: MatchedInput | None) -> ReplyTarget:
    if matched is not None and matched.target is not None:
        return matched.target
    return await find_target(context, body, writes=body.stored)


async def _read_snapshot(context: CommandContext, body: CreateResponse, model: str) -> RecentItems | UnsetType | None:
    """UNSET if the request names no conversation."""
    conversation_id = body.conversation_id
    if conversation_id is None or not is_id(conversation_id, CONVERSATION):
        return UNSET
    return await context.dependencies.contexts.snapshot(conversation_id, model)


async def resolve_model(context: CommandContext, model: str | None) -> str:
    """Raises ApiError (400) for an unknown model, ModelFailed if the provider cannot name a default."""
    provider = context.dependencies.provider
    if model is None:
        return await provider.default_model(context.principal.tenant)
    if not await provider.has_model(model):
        message = f"The requested model {model[:64]!r} does not exist."
        raise ApiError(400, message, code="model_not_found", param="model")
    return model


async def _request_at(
    context: CommandContext,
    body: CreateResponse,
    target: ReplyTarget,
    model: str,
    taken: TakenInput,
    *,
    matched: MatchedInput | None,
) -> Reply:
    reply_request = make_reply_request(context, body, target, model, taken.items)
    reply_request = replace(reply_request, cache_key=await _cache_key(context, body, target))
    if context.if_match is not None and target.version not in context.if_match:
        raise VersionMismatch(target.version)
    only_at = None
    if target.source is None or target.at is None or target.fork or target.leaf or target.retracts or not body.stored:
        model_context = await assemble_context(context, target, reply_request)
    else:
        version, model_context = await context_with_summary(
            context, target.source, target.at, reply_request, target.snapshot
        )
        if context.if_match is not None:
            context = replace(
                context, if_match=frozenset({version})
            )  # after the version that If-Match names, only the new summary was appended
        elif taken.is_compared and target.expected_head is UNSET:
            if version > target.version + 1:  # more than a new summary
                raise VersionMismatch(version)
            only_at = version
    check_outputs(reply_request, model_context)
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=msgspec.json.encode(reply_request.parameters),
        input=_input_of(target, taken),
        shown=model_context.shown,
        start=target.start,
        expected_head=target.expected_head,
        transcript=Transcript() if body.is_chat_completion else None,
        retracts=target.retracts,
        after=target.leaf,
        alone=target.alone,
        regenerates=target.regenerates,
        reuses=target.reuses,
    )
    if not body.stored:
        repeat = repeat_unstored(context, target, reply_request)
        return start_reply(context, command, model_context, repeat=repeat)
    prefixes = _prefixes(matched, taken, command.response_id) if matched else None
    repeat = repeat_stored(context, target.conversation_id, reply_request, target.leaf)
    return await append_and_start(
        context, command, model_context, target.conversation_id, only_at=only_at, prefixes=prefixes, repeat=repeat
    )


async def _queue(
    context: CommandContext, body: CreateResponse, target: ReplyTarget, model: str, taken: TakenInput
) -> Reply:
    """Queues the reply. When its turn comes, the input is not compared with the conversation again."""
    reply_request = make_reply_request(context, body, target, model, taken.items)
    command = QueueReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=msgspec.json.encode(reply_request.parameters),
        input=_input_of(target, taken),
        renderer=context.dependencies.models.renderer,
        interrupts=body.on_busy == "interrupt",
    )
    return await queue_reply(context, command, target.conversation_id)


def _input_of(target: ReplyTarget, taken: TakenInput) -> tuple[InputItem, ...]:
    return tuple(
        InputItem(item_id=new.item_id, item=new.item, copy_of=new.copy_of)
        for new in (*target.carried_items, *(entry.new for entry in taken.items))
    )


def _prefixes(matched: MatchedInput, taken: TakenInput, response_id: str) -> PrefixesOf:
    new_ids = {entry.position: entry.new.item_id for entry in taken.items}
    return lambda output: matched.prefixes(new_ids, response_id, output)


def make_reply_request(
    context: CommandContext, body: CreateResponse, target: ReplyTarget, model: str, taken: Sequence[TakenItem]
) -> ReplyRequest:
    """Raises ApiError: 400 if the provider or the model cannot take something, 413 if the carried items and the
    input are too large together.
    """
    items = (*target.carried_items, *(entry.new for entry in taken))
    if target.carried_items and sum(len(as_output(new.item_id, new.item)) for new in items) > MAX_INPUT_BYTES:
        message = f"`input` and the items of the previous responses are larger than {MAX_INPUT_BYTES} bytes together."
        raise ApiError(413, message, code="request_too_large", param="previous_response_id")
    parameters, new_input = body.parameters(), [entry.item for entry in taken]
    models = context.dependencies.models
    refusal = first_unsupported(models.renderer, parameters, new_input, models.missing_abilities(model))
    if refusal is not None:
        param, message = refusal
        raise ApiError(400, message, code="unsupported_parameter", param=_given_param(param, taken))
    carried = [(new.item_id, from_stored(new.item)) for new in target.carried_items]
    return ReplyRequest(
        model=model,
        parameters=parameters,
        input=[*carried, *((entry.new.item_id, entry.item) for entry in taken)],
        carried_count=len(carried),
        without=frozenset(target.retracts),
    )


async def _cache_key(context: CommandContext, body: CreateResponse, target: ReplyTarget) -> str | None:
    """The conversation's family, so that forks share the provider's cache.

    None if the client set a key, if the reply is not stored, or for `/chat/completions`, whose providers may not accept
    such a key.
    """
    if (
        body.prompt_cache_key is not None
        or not body.stored
        or not uses_responses_api(context.dependencies.models.renderer)
    ):
        return None
    if target.start is not None:
        return target.start.family or target.start.conversation_id
    return await context.dependencies.contexts.family(target.conversation_id)


def _given_param(param: str, taken: Sequence[TakenItem]) -> str:
    """`param` with the item's index in the request's `input`."""
    return re.sub(r"^input\[(\d+)\]", lambda match: f"input[{taken[int(match[1])].position}]", param)
