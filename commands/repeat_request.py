"""Makes the request that is sent after a refusal: smaller, or with notes in place of some items."""

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
from domain.errors import ContentsTooLarge, ContextTooLong, ModelFailed, RefusedRequest
from domain.events import Leaf, Shown
from domain.paths import PathSegment
from replies.repeat import Repeat, RepeatOf

REASON_WINDOW: Final = "window"
"""The refused request was too long."""

REASON_ABILITIES: Final = "abilities"
"""The model may lack an ability that the history needs."""

MIN_GUESS_TOKENS: Final = 4_096
"""A guessed window of at least this size is learnt at once, if the request sets no `max_output_tokens`.

Any other guess is learnt only when the repeat is answered, because the refusal may have had another reason.
"""


class _Change(Struct, frozen=True, kw_only=True):
    """A change to the refused request. `reason`, `learn`: as in Repeat."""

    reply_request: ReplyRequest
    reason: str
    learn: Callable[[], Awaitable[None]] | None = None


class _Repeats:
    """Makes the next request each time the provider refuses one. `assemble` returns None if the caller can
    no longer read the conversation.

    A lacking ability is learnt only if a refusal names it and a request with notes is answered. If the
    refusal names none, one bad image may be the cause.
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
        """The request to send next; None if there is none. `shown`: what is recorded of the refused request."""
        if failure.refused is not None:
            self._lacks |= failure.refused.lacks
        for change in await _changes(self._context, self._sent, failure, shown, self._reasons):
            try:
                model_context = await self._assemble(change.reply_request, shown)
            except (ContextTooLong, ContentsTooLarge):  # the newest turn alone does not fit
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
        """The function to call if this request is answered."""
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
    """The function that makes the repeats of a stored request.

    Contexts are read at the newest version, because items may have been deleted since. `leaf`: the place that the request
    names.
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
    """As `repeat_stored`, for a request that is not stored."""

    async def assemble(changed: ReplyRequest, _: Shown) -> Context:
        return await assemble_context(context, replace(target, snapshot=UNSET), changed)

    return _Repeats(context, reply_request, assemble).next


async def _changes(
    context: CommandContext, sent: ReplyRequest, failure: ModelFailed, shown: Shown, reasons: Collection[str]
) -> list[_Change]:
    """The possible changes, in the order to try. `reasons`: the reasons of earlier repeats."""
    if failure.code == "context_length_exceeded":
        if REASON_WINDOW in reasons or sent.parameters.get("truncation") == "disabled":
            return []
        smaller = await _smaller(context, sent, failure, shown)
        return [] if smaller is None else [smaller]
    return [] if failure.refused is None else _with_notes(context, sent, failure.refused)


def _with_notes(context: CommandContext, sent: ReplyRequest, refused: RefusedRequest) -> list[_Change]:
    """Notes replace what the refusal names, or everything that may be the cause.

    New input is never replaced. History that needs an ability that new input needs is not replaced either.
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
    """Uses the window that the provider named, or three quarters of the tokens that were sent."""
    models, learnt, model = context.dependencies.models, context.dependencies.learnt, reply_request.model
    named, parameters = failure.window, reply_request.parameters
    if named is not None:
        reserved = answer_tokens(parameters, None, named)
        if models.max_request_tokens(model, reserved=reserved, window=named) >= shown.tokens:
            # By the store's own count, the request already fits in the named window.
            named = None
    window = named or shown.tokens * 3 // 4
    if window < 1:
        return None
    learn = partial(learnt.learn_window, model, window)
    if named is None and window >= MIN_GUESS_TOKENS and not parameters.get("max_output_tokens"):
        await learn()  # the next request is then smaller
    return _Change(reply_request=replace(reply_request, window=window), reason=REASON_WINDOW, learn=learn)
