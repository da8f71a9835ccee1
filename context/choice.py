"""Chooses which of a conversation's newest items the model is shown for a reply."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from context.conversation_settings import SUMMARY_TOKENS, Reader
from context.encodings import DEFAULT_ENCODING
from context.history_backwards import RecentItems, token_limit
from context.inlined_contents import MAX_INLINE_BYTES
from context.item_counts import ItemCounts
from context.item_tokens import PER_MESSAGE_TOKENS, counted_parameters
from context.last_requests import summary_hash
from context.models import Models
from context.noted_items import as_sent, noted_ranges
from context.pinned_items import partners_of_pins
from context.rendering import unsendable
from context.selection import BUDGET, SUMMARIZED, ContextInput, ContextItem, Selection, StableWindow, select
from context.tokens import count_off_loop
from domain.errors import ContextTooLong
from domain.events import ContextPolicy, LeftOut
from domain.items import Item
from domain.paths import PathSegment

DEFAULT_ANSWER_TOKENS = 1_024
"""Used if neither the request nor the policy says how many. Half of the window is used if the half is less."""


class ReplyRequest(Struct, frozen=True, kw_only=True):
    """What the choice of a context depends on.

    `input`: the new items, with their new ids. `window`: after a refusal, the window that the provider named, or a
    guess. None: the window in `Models`. `without`: items that are retracted together with the request. `input_unknown`:
    there is no input yet; the context is for a compaction, or is only shown. `carried_count`: how many items at the
    start of `input` come from earlier replies. `missing`: more abilities that the model is assumed to lack.
    `cache_key`: the key of the prompt cache if `parameters` have none.
    """

    model: str
    parameters: Mapping[str, Any]
    input: Sequence[tuple[str, Item]] = ()
    without: frozenset[str] = frozenset()
    window: int | None = None
    input_unknown: bool = False
    carried_count: int = 0
    missing: frozenset[str] = frozenset()
    cache_key: str | None = None


class ContextChoice(Struct, frozen=True, kw_only=True):
    """What a model is shown.

    `missing`: abilities that the model is assumed to lack. Notes replace content that needs such an ability.
    `parameter_tokens`: the tokens of the tools and the answer format. `summary_tokens`: the tokens
    of the summary and of the message around it.
    """

    recent: RecentItems
    context_input: ContextInput
    selection: Selection
    instructions: tuple[str, ...]
    budget: int
    encoding: str
    parameter_tokens: int
    summary_tokens: int
    missing: frozenset[str]

    @property
    def tokens(self) -> int:
        return self.selection.tokens


class ContextChooser:
    def __init__(self, reader: Reader, models: Models, counts: ItemCounts) -> None:
        self._reader = reader
        self._models = models
        self._counts = counts

    async def choose(self, recent: RecentItems, end: PathSegment | None, reply_request: ReplyRequest) -> ContextChoice:
        """`end`: the path's newest segment. It is read only for pinned calls and outputs.

        Raises ContextTooLong, ContentsTooLarge, and psycopg.Error when the log is needed but unavailable.
        """
        budget = self._budget(recent.policy, reply_request)
        encoding = self._models.encoding(reply_request.model)
        requested = reply_request.parameters.get("instructions")
        instructions = tuple(text for text in (recent.instructions, requested) if text)
        parameters = reply_request.parameters
        instruction_tokens, parameter_tokens, summary_tokens = await self._count_base(
            recent, instructions, parameters, encoding
        )
        pins = [*recent.pins]
        if end is not None:
            items = [*recent.pins, *recent.items]
            pins += await partners_of_pins(self._reader, end, items, recent.pinned, self._counts)
        pins.sort(key=lambda pin: pin.depth)
        input_tokens = await self._counts.of(reply_request.input, encoding)
        new_items = [
            ContextItem(item_id=item_id, stored=item, tokens=tokens)
            for (item_id, item), tokens in zip(reply_request.input, input_tokens, strict=True)
        ]
        renderer, missing = self._models.renderer, self._missing(reply_request)
        path, pinned, new = [
            await as_sent(items, renderer, missing, self._counts, encoding)
            for items in (
                await self._in_encoding(recent.items, recent.pinned, encoding),
                await self._in_encoding(pins, recent.pinned, encoding),
                new_items,
            )
        ]
        context_input = ContextInput(
            path=path.items,
            pins=pinned.items,
            input=new.items,
            base_tokens=instruction_tokens + parameter_tokens + summary_tokens,
            reaches_start=recent.reaches_start,
            unread=0 if recent.reaches_start else _unread(recent, pins),
            summarized=_summarized(recent),
            lost=recent.lost,
            input_unknown=reply_request.input_unknown,
        )
        try:
            selection = _select(context_input, budget, recent, reply_request, renderer)
        except ContextTooLong as error:
            is_known = self._models.facts(reply_request.model).window_is_known
            raise ContextTooLong(error.tokens, error.budget, window_is_known=is_known) from error
        notes = noted_ranges(selection.sent, {**path.reasons, **pinned.reasons, **new.reasons})
        return ContextChoice(
            recent=recent,
            context_input=context_input,
            selection=replace(selection, left_out=(*selection.left_out, *notes)) if notes else selection,
            instructions=instructions,
            budget=budget,
            encoding=encoding,
            parameter_tokens=parameter_tokens,
            summary_tokens=summary_tokens,
            missing=missing,
        )

    def _missing(self, reply_request: ReplyRequest) -> frozenset[str]:
        return self._models.missing_abilities(reply_request.model) | reply_request.missing

    def _budget(self, policy: ContextPolicy, reply_request: ReplyRequest) -> int:
        model = reply_request.model
        window = reply_request.window or self._models.window(model)
        reserved = answer_tokens(reply_request.parameters, policy.reserve, window, self._models.facts(model).output)
        return token_limit(policy, max(0, self._models.max_request_tokens(model, reserved=reserved, window=window)))

    async def _count_base(
        self, recent: RecentItems, instructions: Sequence[str], parameters: Mapping[str, Any], encoding: str
    ) -> tuple[int, int, int]:
        """Returns the tokens of the instructions, of the parameters, and of the summary."""
        texts = [*instructions, counted_parameters(parameters)]
        summary = recent.summary
        if summary is not None and encoding != DEFAULT_ENCODING:
            texts.append(summary.text)
        counts = await count_off_loop(texts, encoding)
        summary_tokens = 0
        if summary is not None:
            summary_tokens = SUMMARY_TOKENS + (summary.tokens if encoding == DEFAULT_ENCODING else counts.pop())
        parameter_tokens = counts.pop()
        return sum(counts) + PER_MESSAGE_TOKENS * bool(instructions), parameter_tokens, summary_tokens

    async def _in_encoding(
        self, items: Sequence[ContextItem], pinned: frozenset[str], encoding: str
    ) -> Sequence[ContextItem]:
        if encoding != DEFAULT_ENCODING:
            counts = await self._counts.of([(item.item_id, item.item) for item in items], encoding)
            items = [replace(item, tokens=tokens) for item, tokens in zip(items, counts, strict=True)]
        if not pinned:
            return items
        return [_pinned(item) if item.item_id in pinned else item for item in items]


def _pinned(item: ContextItem) -> ContextItem:
    return replace(item, pinned=True, stored=item.item, form=0)


def _select(
    context_input: ContextInput, budget: int, recent: RecentItems, reply_request: ReplyRequest, renderer: int
) -> Selection:
    """Raises ContextTooLong if the newest turn does not fit.

    With `truncation: "disabled"`, also if any item does not fit.
    """
    if reply_request.parameters.get("truncation") != "disabled":
        stable = _stable_window(recent, reply_request.model)
        return select(context_input, budget, partial(unsendable, renderer), stable, MAX_INLINE_BYTES)
    selection = select(context_input, budget, partial(unsendable, renderer))
    if any(left_out.reason == BUDGET for left_out in selection.left_out):
        everything = (*context_input.pins, *context_input.path, *context_input.input)
        raise ContextTooLong(context_input.base_tokens + sum(item.tokens for item in everything), budget)
    return selection


def _stable_window(recent: RecentItems, model: str) -> StableWindow | None:
    """None if the policy's window is `newest`.

    `first_depth` is None if there is no last request, or if that request had another summary.
    """
    policy = recent.policy
    if policy.window == "newest":
        return None
    last = recent.last_requests.get(model)
    stands = last is not None and last.summary == summary_hash(recent.summary)
    return StableWindow(refill=policy.refill, first_depth=last.first_depth if last is not None and stands else None)


def _unread(recent: RecentItems, pins: Sequence[ContextItem]) -> int:
    summarized_depth = recent.summary.depth if recent.summary else 0
    first_depth = recent.items[0].depth
    return first_depth - 1 - summarized_depth - sum(summarized_depth < pin.depth < first_depth for pin in pins)


def answer_tokens(
    parameters: Mapping[str, Any], reserve: int | None, window: int, longest_answer: int | None = None
) -> int:
    """How many tokens are kept free for the answer."""
    tokens: int = parameters.get("max_output_tokens") or reserve or min(DEFAULT_ANSWER_TOKENS, window // 2)
    return min(tokens, longest_answer or tokens)


def _summarized(recent: RecentItems) -> LeftOut | None:
    if (summary := recent.summary) is None:
        return None
    return LeftOut(reason=SUMMARIZED, first=summary.first, last=summary.last, count=summary.count)
