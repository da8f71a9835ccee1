"""Rolling summaries: a model writes one of what no longer fits, and a ContextCompacted records it. The items stay readable.

It leaves room: what is kept as it is fills half the budget, the summary at most a quarter, so that it is not done at each turn.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from commands.command_context import CommandContext
from context.assembly import Context, ContextChoice, ReplyRequest
from context.conversation_settings import SUMMARY_TOKENS
from context.history_backwards import RecentItems
from context.rendering import render
from context.selection import BUDGET
from context.summaries import (
    AFTER,
    PROMPT,
    SO_FAR,
    can_end_at,
    first_kept_depth,
    omit_middle,
    portions,
    transcript,
    truncate,
)
from context.tokens import count, count_off_loop
from domain.commands import CompactContext
from domain.errors import ModelFailed, SummaryHasChanged
from domain.events import ItemAppended, Usage
from domain.items import Item, from_stored
from infrastructure.ids import mint

log = structlog.get_logger(__name__)

MAX_MODEL_CALLS = 8
"""Of the model, for one request; what that does not cover is left to the next."""

SMALLEST_SUMMARY = 16
SMALLEST_PORTION = 64
"""Tokens. A model with less room than that writes no summaries."""

COMPACTION = "cmp"


class Portion(Struct, frozen=True):
    """What a summary takes in, oldest first: items, and what is said of each to the model, with its tokens."""

    events: list[ItemAppended]
    items: list[Item]
    texts: list[str]
    sizes: list[int]


class Written(Struct, frozen=True):
    """A summary that a model wrote, of the first `covered` items, and the tokens that took."""

    text: str
    covered: int
    usage: Usage


async def make_room(
    context: CommandContext,
    conversation_id: str,
    version: int,
    asked: ReplyRequest,
    snapshot: RecentItems | UnsetType | None = UNSET,
) -> tuple[int, Context]:
    """The context of a conversation at `version`, its head, after a summary is made where its policy or the request wants one.

    Answers with the version that the context is of: a higher one where a summary was made. A model that fails, or says
    nothing, is no obstacle. `snapshot`: the one there is, where it was looked for already. Raises what Contexts.assemble and CommandContext.append raise.
    """
    contexts = context.dependencies.contexts
    # What would be cut off is to be summarized first.
    lenient = {name: value for name, value in asked.parameters.items() if name != "truncation"}
    if snapshot is UNSET:
        snapshot = await contexts.snapshot(context.principal.tenant, conversation_id, asked.model)
    chosen = await contexts.choose_with_snapshot(conversation_id, version, replace(asked, parameters=lenient), snapshot)
    limit = wanted(chosen, asked.parameters)
    if limit is None and lenient == asked.parameters:
        return version, contexts.render(asked, chosen)
    if limit is not None and not await context.dependencies.reader.is_locked(conversation_id):
        try:
            command = await summarize(context, conversation_id, chosen, asked, limit=limit)
            if command is not None:
                # Under the condition of the request: what others append while the model writes must not slip by it.
                conditions = None if context.if_match is None else frozenset({version})
                summarizing = replace(context, if_match=conditions, idempotency=None)
                version = (await summarizing.append(conversation_id, command)).version
        except ModelFailed as failure:
            log.warning("compaction_failed", conversation_id=conversation_id, code=failure.code)
        except SummaryHasChanged:
            head = await context.dependencies.reader.head(conversation_id)
            version = head.version if head else version
    return version, contexts.render(
        asked, await contexts.choose_with_snapshot(conversation_id, version, asked, snapshot)
    )


def wanted(chosen: ContextChoice, parameters: Mapping[str, Any]) -> int | None:
    """The tokens to come well below by a summary; None where none is context for."""
    thresholds = [
        each["compact_threshold"]
        for each in parameters.get("context_management") or ()
        if isinstance(each, dict)
        and each.get("type") == "compaction"
        and isinstance(each.get("compact_threshold"), int)
    ]
    if not thresholds and chosen.recent.policy.strategy != "rolling_summary":
        return None
    limit = min([chosen.budget, *thresholds])
    falls_out = any(each.reason == BUDGET for each in chosen.selection.left_out)
    return limit if falls_out or chosen.tokens > limit else None


async def summarize(
    context: CommandContext,
    conversation_id: str,
    chosen: ContextChoice,
    asked: ReplyRequest,
    *,
    limit: int,
    instructions: str | None = None,
) -> CompactContext | None:
    """The command that records a new summary: of the old one and what follows it, down to about half of `limit` tokens.

    None where nothing is to be summarized, or there is no room to. Raises ModelFailed when the model said nothing at all of use.
    """
    contexts, models = context.dependencies.contexts, context.dependencies.models
    always = chosen.context_input.base_tokens - chosen.summary_tokens
    depth = first_kept_depth(chosen.context_input, always, limit // 2, contexts.unsendable)
    most = limit // 4 - SUMMARY_TOKENS
    prompt = PROMPT if instructions is None else f"{PROMPT}\n\n{instructions}"
    [prompt_tokens] = await count_off_loop([prompt], chosen.encoding)
    room = models.room(asked.model, reserved=most) - prompt_tokens - most - SMALLEST_PORTION
    if depth is None or most < SMALLEST_SUMMARY or room < SMALLEST_PORTION:
        return None
    old = chosen.recent.summary
    taken = await _taken_in(context, conversation_id, chosen, depth, room)
    written = await write(
        context, asked.model, prompt=prompt, summary=old.text if old else "", taken=taken, room=room, most=most
    )
    if written is None:
        log.warning("compaction_was_empty", conversation_id=conversation_id)
        return None
    covered, found = written.covered, written.text
    sizes = await contexts.count_items(
        [(event.item_id, from_stored(event.item)) for event in taken.events[:covered]], chosen.encoding
    )
    [after] = await count_off_loop([found], chosen.encoding)
    last = taken.events[covered - 1]
    return CompactContext(
        compaction_id=mint(COMPACTION),
        summary=found,
        first=old.first if old else taken.events[0].item_id,
        last=last.item_id,
        depth=last.depth,
        count=covered + (old.count if old else 0),
        tokens_before=sum(sizes) + (old.tokens_before if old else 0),
        tokens_after=after,
        model=asked.model,
        replaces=old.version if old else 0,
        usage=written.usage,
        cost=models.cost(asked.model, written.usage),
    )


async def write(
    context: CommandContext, name: str, *, prompt: str, summary: str, taken: Portion, room: int, most: int
) -> Written | None:
    """Has the model `name` write a summary of at most `most` tokens, of `summary` and what follows it, in portions of `room` tokens.

    Whatever MAX_MODEL_CALLS cover, to the end of a turn. None where it said nothing. Raises ModelFailed when it failed before there was any.
    """
    provider, models = context.dependencies.provider, context.dependencies.models
    encoding = models.encoding(name)
    found: Written | None = None
    spent = Usage()
    begin = 0
    ends = portions(taken.items, taken.sizes, room)[:MAX_MODEL_CALLS]
    while ends and not can_end_at(taken.items, ends[-1]):
        ends.pop()  # of no use: a turn that is longer than all portions would be told the model again and again
    for end in ends:
        body = _body(models.renderer, name, prompt=prompt, summary=summary, texts=taken.texts[begin:end], most=most)
        try:
            said = await provider.complete_text(body)
        except ModelFailed:
            if found is None:
                raise
            break
        spent = _sum(spent, said.usage or Usage())
        # Either may be long: counting it would hold up the event loop.
        summary = await asyncio.to_thread(truncate, said.text, most, partial(count, encoding=encoding))
        begin = end
        if not summary:
            break
        if can_end_at(taken.items, end):
            found = Written(summary, end, spent)
    return found


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__})


async def _taken_in(
    context: CommandContext, conversation_id: str, chosen: ContextChoice, depth: int, room: int
) -> Portion:
    """The items after the old summary and above `depth`, as many as MAX_MODEL_CALLS portions hold."""
    taken = Portion([], [], [], [])
    old = chosen.recent.summary
    size = 0
    async for event in context.dependencies.contexts.path(
        conversation_id, chosen.recent.version, old.last if old else None
    ):
        if event.depth >= depth or size > room * MAX_MODEL_CALLS:
            break
        taken.events.append(event)
        size += await take_in(taken, from_stored(event.item), room, chosen.encoding)
    return taken


async def take_in(taken: Portion, item: Item, room: int, encoding: str) -> int:
    """Adds an item to what a summary takes in, and says how many tokens that are; one longer than a portion loses its middle."""
    text = transcript(item)
    if len(text) > room:
        text = await asyncio.to_thread(omit_middle, text, room, partial(count, encoding=encoding))
    [tokens] = await count_off_loop([text], encoding)
    taken.items.append(item)
    taken.texts.append(text)
    taken.sizes.append(tokens + 1)
    return tokens + 1


def _body(renderer: int, model: str, *, prompt: str, summary: str, texts: Sequence[str], most: int) -> dict[str, Any]:
    said = "\n".join(text for text in texts if text)
    content = f"{SO_FAR}{summary}\n\n{AFTER}{said}" if summary else said
    return render(
        renderer,
        model=model,
        instructions=[prompt],
        summary=None,
        items=[{"type": "message", "role": "user", "content": content}],
        parameters={"max_output_tokens": most},
    )
