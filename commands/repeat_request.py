"""What a reply's request is repeated with after the provider refused it: the context is assembled again, to fit what the refusal taught."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from commands.command_route import CommandContext
from commands.reply_target import ReplyTarget
from commands.target_context import assemble_context
from context.assembly import Context
from context.choice import ReplyRequest, answer_tokens
from domain.errors import ContextTooLong, ModelFailed
from domain.events import Shown
from replies.repeat import Repeat, RepeatOf

TOO_LONG: Final = "window"
"""The reason of a repeat whose first request was too long."""

MIN_GUESS_TOKENS: Final = 4_096
"""A smaller window that was only guessed is learnt when a request within it was answered, and not before.

The refusal may have had another cause than the context, and what is learnt holds for everybody.
"""


class _Change(Struct, frozen=True, kw_only=True):
    """What the request is repeated with. `reason`, `learn`: as in Repeat."""

    reply_request: ReplyRequest
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


def repeat_stored(context: CommandContext, conversation_id: str, reply_request: ReplyRequest) -> RepeatOf:
    """Makes the repeat of a request that is on record in this conversation. Its context is that of now: items may have been deleted since."""

    async def assemble(changed: ReplyRequest) -> Context | None:
        head = await context.dependencies.reader.readable_head(conversation_id)
        if head is None:
            return None
        return await context.dependencies.contexts.assemble(conversation_id, head.stream_version, changed)

    return partial(_repeat, context, reply_request, assemble)


def repeat_unstored(context: CommandContext, target: ReplyTarget, reply_request: ReplyRequest) -> RepeatOf:
    """Makes the repeat of a request that is not stored."""

    async def assemble(changed: ReplyRequest) -> Context:
        return await assemble_context(context, replace(target, snapshot=UNSET), changed)

    return partial(_repeat, context, reply_request, assemble)


async def _repeat(
    context: CommandContext,
    reply_request: ReplyRequest,
    assemble: Callable[[ReplyRequest], Awaitable[Context | None]],
    failure: ModelFailed,
    shown: Shown,
) -> Repeat | None:
    """None if there is nothing to repeat. `assemble`: makes the context of the changed request; None: its conversation is deleted."""
    change = await _change(context, reply_request, failure, shown)
    if change is None:
        return None
    try:
        model_context = await assemble(change.reply_request)
    except ContextTooLong:  # the newest turn alone does not fit
        return None
    if model_context is None:
        return None
    return Repeat(body=model_context.body, shown=model_context.shown, reason=change.reason, learn=change.learn)


async def _change(
    context: CommandContext, reply_request: ReplyRequest, failure: ModelFailed, shown: Shown
) -> _Change | None:
    """How the request changes. None: a change would not help, or the client does not allow it."""
    if failure.code == "context_length_exceeded" and reply_request.parameters.get("truncation") != "disabled":
        return await _smaller(context, reply_request, failure, shown)
    return None


async def _smaller(
    context: CommandContext, reply_request: ReplyRequest, failure: ModelFailed, shown: Shown
) -> _Change | None:
    """The request for a smaller window: the one that the provider names, else three quarters of what was sent."""
    models, learnt, model = context.dependencies.models, context.dependencies.learnt, reply_request.model
    named, parameters = failure.window, reply_request.parameters
    if named is not None:
        reserved = answer_tokens(parameters, None, named)
        if models.max_request_tokens(model, reserved=reserved, window=named) >= shown.tokens:
            named = None  # by the store's own count the request fitted, so this window does not make it smaller
    window = named or shown.tokens * 3 // 4
    if window < 1:
        return None
    learn = partial(learnt.learn_window, model, window)
    if named is None and window >= MIN_GUESS_TOKENS and not parameters.get("max_output_tokens"):
        await learn()  # if the repeat is refused too, the next request is smaller
    return _Change(reply_request=replace(reply_request, window=window), reason=TOO_LONG, learn=learn)
