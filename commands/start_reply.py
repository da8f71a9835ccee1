"""Appends the request for a reply to the log, and starts the reply."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from commands.command_route import REFUSALS, CommandContext
from context.assembly import Context
from domain.commands import QueueReply, RequestReply
from infrastructure.event_log.append_request import Appended, LogUnavailable
from infrastructure.http.errors import as_api_error
from replies.client_disconnect import stream_for_client
from replies.recorded_reply import RecordedReply, ReplyReference
from replies.repeat import RepeatOf
from replies.reply_end import PrefixesOf
from replies.running_reply import RunningReply

Reply = RunningReply | RecordedReply


async def request_unless_repeated(
    context: CommandContext, request: Callable[[], Awaitable[Reply]], *, stored: bool, background: bool = False
) -> Reply:
    """Calls `request`. A repeat gets the reply of the first request.

    If `request` is refused, a summary that was made for the reply stays.
    """
    if (recorded := await _first_reply(context, stored=stored)) is not None:
        await context.allowance.follow()
        return recorded
    await context.allowance.reply(background=background)
    try:
        return await request()
    except REFUSALS:
        if (recorded := await _first_reply(context, stored=stored)) is None:
            raise
        return recorded


async def append_and_start(
    context: CommandContext,
    command: RequestReply,
    model_context: Context,
    conversation_id: str,
    *,
    only_at: int | None = None,
    prefixes: PrefixesOf | None = None,
    repeat: RepeatOf | None = None,
) -> Reply:
    """Raises what `append_unless_repeated` raises. `prefixes`, `repeat`: as for RunningReply."""
    requested = await append_unless_repeated(context, command, conversation_id, only_at=only_at)
    if isinstance(requested, RecordedReply):
        return requested
    return start_reply(context, command, model_context, conversation_id, requested, prefixes=prefixes, repeat=repeat)


async def append_unless_repeated(
    context: CommandContext, command: RequestReply | QueueReply, conversation_id: str, *, only_at: int | None = None
) -> Appended | RecordedReply:
    """A repeat gets the reply of the first request.

    Raises what `CommandContext.append` raises. If the outcome is unknown, raises an ApiError that names the response.
    """
    reference = msgspec.json.encode(ReplyReference(conversation_id, command.response_id))
    try:
        appended = await context.append(conversation_id, command, lambda _: reference, only_at=only_at)
    except LogUnavailable as error:
        if not error.outcome_unknown:
            raise
        raise as_api_error(error).on_record_as(command.response_id, is_certain=False) from error
    if appended.replayed:
        assert appended.answer is not None
        return _recorded_reply(context, appended.answer)
    return appended


def start_reply(
    context: CommandContext,
    command: RequestReply,
    model_context: Context,
    conversation_id: str | None = None,
    requested: Appended | None = None,
    *,
    prefixes: PrefixesOf | None = None,
    repeat: RepeatOf | None = None,
) -> RunningReply:
    """Without `requested`, the reply is not stored."""
    reply = RunningReply(
        context.dependencies.reply_services,
        principal=context.principal,
        request_id=context.request_id,
        command=command,
        body=model_context.body,
        conversation_id=conversation_id,
        requested=requested,
        spend=context.allowance.spend,
        prefixes=prefixes,
        repeat=repeat,
    )
    context.allowance.end_with(context.dependencies.active_replies.start(reply))
    return reply


async def stream_of(reply: Reply, *, keep_running: bool) -> tuple[AsyncGenerator[bytes, None], dict[str, str]]:
    """The reply's server-sent events as they come, and the headers of their stream."""
    if isinstance(reply, RecordedReply):
        return await reply.stream()
    return stream_for_client(reply, keep_running=keep_running), reply.headers


async def _first_reply(context: CommandContext, *, stored: bool) -> RecordedReply | None:
    first_answer = await context.first_answer() if stored else None
    return None if first_answer is None else _recorded_reply(context, first_answer.answer)


def _recorded_reply(context: CommandContext, answer: bytes) -> RecordedReply:
    """`answer`: a ReplyReference as JSON text."""
    reference = msgspec.json.decode(answer, type=ReplyReference)
    dependencies = context.dependencies
    shared = dependencies.reply_services.reader.of_tenant(context.principal.tenant)
    return RecordedReply(dependencies.reader, shared, dependencies.reply_streams, reference, context.principal)
