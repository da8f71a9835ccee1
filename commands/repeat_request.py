"""What a reply's request is repeated with after the provider refused it: the context is assembled again, to fit what the refusal taught."""

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from commands.command_route import CommandContext
from commands.reply_target import ReplyTarget
from commands.target_context import assemble_context
from context.assembly import Context
from context.choice import ReplyRequest, answer_tokens
from context.rendering import needed_abilities
from context.rendering.notes import NOTED_ABILITIES
from domain.errors import ContextTooLong, ModelFailed, RefusedRequest
from domain.events import Shown
from replies.repeat import Repeat, RepeatOf

TOO_LONG: Final = "window"
"""The reason of a repeat whose first request was too long."""

NOT_TAKEN: Final = "abilities"
"""The reason of a repeat whose first request may have had something in its history that the model cannot take."""

MIN_GUESS_TOKENS: Final = 4_096
"""A smaller window that was only guessed is learnt when a request within it was answered, and not before.

The refusal may have had another cause than the context, and what is learnt holds for everybody.
"""


class _Change(Struct, frozen=True, kw_only=True):
    """What the request is repeated with. `reason`, `learn`: as in Repeat."""

    reply_request: ReplyRequest
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


class _Repeats:
    """What is sent instead of a request, each time when the provider refuses it. `assemble`: makes the context of the changed request; None: its
    conversation is deleted.

    What a refusal says the model lacks is learnt if a note in its place helped. Nothing else is: the cause may be one bad image, and what is
    learnt holds for everybody.
    """

    def __init__(
        self,
        context: CommandContext,
        reply_request: ReplyRequest,
        assemble: Callable[[ReplyRequest], Awaitable[Context | None]],
    ) -> None:
        self._context = context
        self._sent = reply_request
        self._assemble = assemble
        self._reasons: set[str] = set()
        self._lacks: set[str] = set()

    async def next(self, failure: ModelFailed, shown: Shown) -> Repeat | None:
        """None if there is nothing to repeat."""
        if failure.refused is not None:
            self._lacks |= failure.refused.lacks
        for change in await _changes(self._context, self._sent, failure, shown, self._reasons):
            try:
                model_context = await self._assemble(change.reply_request)
            except ContextTooLong:  # the newest turn alone does not fit
                return None
            if model_context is None:
                return None
            if model_context.shown.request_sha256 != shown.request_sha256:
                self._sent = change.reply_request
                self._reasons.add(change.reason)
                learn = self._learn(model_context.shown) or change.learn
                return Repeat(body=model_context.body, shown=model_context.shown, reason=change.reason, learn=learn)
        return None

    def _learn(self, shown: Shown) -> Callable[[], Awaitable[None]] | None:
        missing = self._lacks.intersection(shown.notes)
        return partial(self._context.dependencies.learnt.learn_missing, self._sent.model, missing) if missing else None


def repeat_stored(context: CommandContext, conversation_id: str, reply_request: ReplyRequest) -> RepeatOf:
    """Makes the repeats of a request that is on record in this conversation. Their context is that of now: items may have been deleted since."""

    async def assemble(changed: ReplyRequest) -> Context | None:
        head = await context.dependencies.reader.readable_head(conversation_id)
        if head is None:
            return None
        return await context.dependencies.contexts.assemble(conversation_id, head.stream_version, changed)

    return _Repeats(context, reply_request, assemble).next


def repeat_unstored(context: CommandContext, target: ReplyTarget, reply_request: ReplyRequest) -> RepeatOf:
    """Makes the repeats of a request that is not stored."""

    async def assemble(changed: ReplyRequest) -> Context:
        return await assemble_context(context, replace(target, snapshot=UNSET), changed)

    return _Repeats(context, reply_request, assemble).next


async def _changes(
    context: CommandContext, sent: ReplyRequest, failure: ModelFailed, shown: Shown, reasons: Collection[str]
) -> list[_Change]:
    """How the request may change: the first that makes another request is sent. None: a change would not help, or the client does not allow it.

    `reasons`: why the request was repeated before. It is made smaller only once.
    """
    if failure.code == "context_length_exceeded":
        if TOO_LONG in reasons or sent.parameters.get("truncation") == "disabled":
            return []
        smaller = await _smaller(context, sent, failure, shown)
        return [] if smaller is None else [smaller]
    return [] if failure.refused is None else _with_notes(context, sent, failure.refused)


def _with_notes(context: CommandContext, sent: ReplyRequest, refused: RefusedRequest) -> list[_Change]:
    """The request with notes in place of what the refusal names, then of all that may be its cause.

    New input is never replaced. So what it needs is sent again.
    """
    renderer = context.dependencies.models.renderer
    replaceable = NOTED_ABILITIES - needed_abilities(renderer, (item for _, item in sent.input[sent.carried :]))
    return [
        _Change(reply_request=replace(sent, missing=sent.missing | missing), reason=NOT_TAKEN)
        for missing in (refused.names & replaceable, replaceable)
    ]


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
