"""Makes the request that is sent instead of one that the provider refused. Its context is assembled again.

The new context is smaller, or has notes in place of what the model may not be able to take.
"""

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from commands.command_route import CommandContext
from commands.reply_target import ReplyTarget
from commands.target_context import assemble_context
from context.assembly import Context
from context.branch_paths import active_branches
from context.choice import ReplyRequest, answer_tokens
from context.rendering import needed_abilities
from context.rendering.notes import NOTED_ABILITIES
from domain.errors import ContextTooLong, ModelFailed, RefusedRequest
from domain.events import Leaf, Shown
from domain.paths import PathSegment
from replies.repeat import Repeat, RepeatOf

REASON_WINDOW: Final = "window"
"""The reason of a repeat: the refused request was too long."""

REASON_ABILITIES: Final = "abilities"
"""The reason of a repeat: the history of the refused request may have something that the model cannot take."""

MIN_GUESS_TOKENS: Final = 4_096
"""A guessed window of at least this many tokens is learnt at once, unless the request sets `max_output_tokens`.

Otherwise the guess is learnt only when the smaller request is answered. The first request may have been refused for
another reason than its length, and what is learnt applies to everybody's requests.
"""


class _Change(Struct, frozen=True, kw_only=True):
    """A changed request, to send instead of the refused one. `reason`, `learn`: as in Repeat."""

    reply_request: ReplyRequest
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


class _Repeats:
    """Makes the next request each time the provider refuses one.

    `assemble` makes the context of a changed request. Its second argument is what is recorded of the refused request.
    `assemble` returns None if the conversation is deleted.

    The store learns that the model lacks an ability only if two things happen: a refusal says that the model lacks it,
    and then a request with notes in place of the items that need it is answered. In other cases the cause may be one
    bad image, and what is learnt applies to everybody's requests. `_smaller` says when a window is learnt.
    """

    def __init__(
        self,
        context: CommandContext,
        reply_request: ReplyRequest,
        assemble: Callable[[ReplyRequest, Shown], Awaitable[Context | None]],
    ) -> None:
        self._context = context
        self._sent = reply_request
        self._assemble = assemble
        self._reasons: set[str] = set()
        self._lacks: set[str] = set()
        self._learn_window: Callable[[], Awaitable[None]] | None = None

    async def next(self, failure: ModelFailed, shown: Shown) -> Repeat | None:
        """The request to send instead of the refused one. None if there is no other: then the refusal is the answer.

        `shown`: what is recorded of the refused request.
        """
        if failure.refused is not None:
            self._lacks |= failure.refused.lacks
        for change in await _changes(self._context, self._sent, failure, shown, self._reasons):
            try:
                model_context = await self._assemble(change.reply_request, shown)
            except ContextTooLong:  # the newest turn alone does not fit
                return None
            if model_context is None:
                return None
            if model_context.shown.request_sha256 != shown.request_sha256:
                self._sent = change.reply_request
                self._reasons.add(change.reason)
                self._learn_window = change.learn or self._learn_window
                learn = self._learner(model_context.shown)
                return Repeat(body=model_context.body, shown=model_context.shown, reason=change.reason, learn=learn)
        return None

    def _learner(self, shown: Shown) -> Callable[[], Awaitable[None]] | None:
        """Returns the function to call if this request is answered. It learns the abilities that the model lacks, and the model's window.

        None if there is nothing to learn.
        """
        missing, learn_window = self._lacks.intersection(shown.notes), self._learn_window
        if not missing:
            return learn_window
        learn_missing = partial(self._context.dependencies.learnt.learn_missing, self._sent.model, missing)

        async def learn() -> None:
            await learn_missing()
            if learn_window is not None:
                await learn_window()

        return learn


def repeat_stored(
    context: CommandContext, conversation_id: str, reply_request: ReplyRequest, leaf: Leaf | None = None
) -> RepeatOf:
    """Returns the function that makes the repeats of a request. The request is stored in this conversation.

    Each context is read at the conversation's newest version: items may have been deleted since the request was
    stored. `leaf`: the place that the request names. Without it, the path is the one that was active when the request was made.
    """

    async def assemble(changed: ReplyRequest, shown: Shown) -> Context | None:
        reader = context.dependencies.reader
        head = await reader.readable_head(conversation_id)
        if head is None:
            return None
        branches = leaf.path if leaf else await active_branches(reader, conversation_id, shown.version)
        end = PathSegment(conversation_id, head.version, branches)
        return await context.dependencies.contexts.assemble_path(end, head.stream_version, changed)

    return _Repeats(context, reply_request, assemble).next


def repeat_unstored(context: CommandContext, target: ReplyTarget, reply_request: ReplyRequest) -> RepeatOf:
    """Returns the function that makes the repeats of a request that is not stored."""

    async def assemble(changed: ReplyRequest, _: Shown) -> Context:
        return await assemble_context(context, replace(target, snapshot=UNSET), changed)

    return _Repeats(context, reply_request, assemble).next


async def _changes(
    context: CommandContext, sent: ReplyRequest, failure: ModelFailed, shown: Shown, reasons: Collection[str]
) -> list[_Change]:
    """The possible changes of the request, in the order to try. The first one that gives a different request is used.

    Empty if no change would help, or if the client does not allow one. `reasons`: why the request was repeated before.
    The request is made smaller only once.
    """
    if failure.code == "context_length_exceeded":
        if REASON_WINDOW in reasons or sent.parameters.get("truncation") == "disabled":
            return []
        smaller = await _smaller(context, sent, failure, shown)
        return [] if smaller is None else [smaller]
    return [] if failure.refused is None else _with_notes(context, sent, failure.refused)


def _with_notes(context: CommandContext, sent: ReplyRequest, refused: RefusedRequest) -> list[_Change]:
    """Two changes: notes replace what the refusal names; or notes replace everything that may be the cause.

    New input is never replaced. History that needs the same abilities as the new input is not replaced either.
    """
    renderer = context.dependencies.models.renderer
    replaceable = NOTED_ABILITIES - needed_abilities(renderer, (item for _, item in sent.input[sent.carried_count :]))
    return [
        _Change(reply_request=replace(sent, missing=sent.missing | missing), reason=REASON_ABILITIES)
        for missing in (refused.mentions & replaceable, replaceable)
    ]


async def _smaller(
    context: CommandContext, reply_request: ReplyRequest, failure: ModelFailed, shown: Shown
) -> _Change | None:
    """The request for a smaller window.

    The window is the one that the provider named, if that makes the request smaller. Otherwise it is three quarters of
    the tokens that were sent. The window is learnt when the smaller request is answered. A large guess is learnt at once
    (MIN_GUESS_TOKENS). None if no smaller window is possible.
    """
    models, learnt, model = context.dependencies.models, context.dependencies.learnt, reply_request.model
    named, parameters = failure.window, reply_request.parameters
    if named is not None:
        reserved = answer_tokens(parameters, None, named)
        if models.max_request_tokens(model, reserved=reserved, window=named) >= shown.tokens:
            # By the store's own count, the request fits in the named window. So that window would not make it smaller.
            named = None
    window = named or shown.tokens * 3 // 4
    if window < 1:
        return None
    learn = partial(learnt.learn_window, model, window)
    if named is None and window >= MIN_GUESS_TOKENS and not parameters.get("max_output_tokens"):
        await learn()  # so that the next request is smaller, even if the repeat is refused too
    return _Change(reply_request=replace(reply_request, window=window), reason=REASON_WINDOW, learn=learn)
