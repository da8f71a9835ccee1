"""Rolling summaries: a model summarizes the older items of a conversation. The items stay readable.

The newest turns get half of the token limit, the summary a quarter. The rest stays free, so that the next turns need no new
summary.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from commands.access import head_is_busy
from commands.command_route import CommandContext
from context.assembly import Context
from context.branch_paths import active_segment
from context.choice import ContextChoice, ReplyRequest
from context.conversation_settings import SUMMARY_TOKENS, settings_at
from context.forks import read_path
from context.history_backwards import RecentItems
from context.selection import BUDGET
from context.summaries import PROMPT, first_kept_depth
from context.tokens import count_off_loop
from domain.commands import CompactContext
from domain.errors import ModelFailed, SummaryHasChanged
from domain.events import Fork, ItemAppended
from domain.items import from_stored
from domain.paths import PathSegment
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.event_log.incarnation import StreamVersion
from infrastructure.ids import mint
from replies.summary_writer import (
    MIN_PORTION_TOKENS,
    MIN_SUMMARY_TOKENS,
    SummaryInput,
    portion_tokens,
    write_summary,
)

log = structlog.get_logger(__name__)

COMPACTION = "cmp"
"""The prefix of the ids of compactions."""


async def context_with_summary(
    context: CommandContext,
    conversation_id: str,
    at: StreamVersion,
    reply_request: ReplyRequest,
    snapshot: RecentItems | UnsetType | None = UNSET,
    *,
    has_turn: bool = False,
) -> tuple[int, Context]:
    """The context at the conversation's head, as (version, context). Makes a summary first if one is needed and asked
    for.

    Without `has_turn`, makes no summary while another reply runs or waits at the head. Raises what Contexts.assemble
    and CommandContext.append raise.
    """
    contexts = context.dependencies.contexts
    # What does not fit is summarized, not refused.
    without_truncation = {name: value for name, value in reply_request.parameters.items() if name != "truncation"}
    if snapshot is UNSET:
        snapshot = await contexts.snapshot(conversation_id, reply_request.model)
    choice = await contexts.choose_with_snapshot(
        conversation_id, at, replace(reply_request, parameters=without_truncation), snapshot
    )
    limit = summary_limit(choice, reply_request.parameters)
    if limit is None and without_truncation == reply_request.parameters:
        return at.version, await contexts.render(reply_request, choice)
    if limit is not None and (has_turn or not await head_is_busy(context, conversation_id)):
        try:
            command = await summarize(context, conversation_id, choice, reply_request.model, limit=limit)
            if command is not None:
                # With `If-Match`, the request must fail if anything was appended while the model wrote the summary.
                if_match = None if context.if_match is None else frozenset({at.version})
                summary_context = replace(context, if_match=if_match, idempotency=None)
                appended = await summary_context.append(conversation_id, command)
                at = StreamVersion(appended.version, "", at.incarnation)
        except ModelFailed as failure:
            log.warning("compaction_failed", conversation_id=conversation_id, code=failure.code)
        except SummaryHasChanged:
            head = await context.dependencies.reader.head(conversation_id)
            at = head.stream_version if head else at
            if context.if_match is not None and at.version not in context.if_match:
                raise VersionMismatch(at.version) from None
    choice = await contexts.choose_with_snapshot(conversation_id, at, reply_request, snapshot)
    return at.version, await contexts.render(reply_request, choice)


def summary_limit(choice: ContextChoice, parameters: Mapping[str, Any]) -> int | None:
    """The limit in tokens that the context exceeds. None if the context exceeds no limit, or if nothing asks for a summary."""
    thresholds = [
        entry["compact_threshold"]
        for entry in parameters.get("context_management") or ()
        if isinstance(entry, dict)
        and entry.get("type") == "compaction"
        and isinstance(entry.get("compact_threshold"), int)
    ]
    if not thresholds and choice.recent.policy.strategy != "rolling_summary":
        return None
    limit = min([choice.budget, *thresholds])
    exceeds_budget = any(left_out.reason == BUDGET for left_out in choice.selection.left_out)
    return limit if exceeds_budget or choice.tokens > limit else None


async def summarize(
    context: CommandContext,
    conversation_id: str,
    choice: ContextChoice,
    model: str,
    *,
    limit: int,
    instructions: str | None = None,
) -> CompactContext | None:
    """Summarizes the previous summary and the older items after it. None if no summary can be made.

    Raises ModelFailed, and SummaryHasChanged if the previous summary was just withdrawn or replaced.
    """
    dependencies = context.dependencies
    contexts, models = dependencies.contexts, dependencies.models
    base_tokens = choice.context_input.base_tokens - choice.summary_tokens
    depth = first_kept_depth(choice.context_input, base_tokens, limit // 2, contexts.unsendable)
    max_tokens = limit // 4 - SUMMARY_TOKENS
    prompt = PROMPT if instructions is None else f"{PROMPT}\n\n{instructions}"
    max_portion_tokens = await portion_tokens(models, model, prompt, max_tokens)
    if depth is None or max_tokens < MIN_SUMMARY_TOKENS or max_portion_tokens < MIN_PORTION_TOKENS:
        return None
    reader, version, previous = dependencies.reader, choice.recent.version, choice.recent.summary
    end = await active_segment(reader, conversation_id, version)
    path = await read_path(reader, end)
    inherited = [segment.conversation_id for segment in path.segments[:-1]]
    last_events = await reader.head_of_each(inherited) if inherited else []
    settings = await settings_at(reader, conversation_id, version)
    if (settings.compaction[0] if settings.compaction else 0) != (previous.version if previous else 0):
        raise SummaryHasChanged(conversation_id)  # the previous summary was just withdrawn or replaced
    summary_input = SummaryInput(choice.encoding, max_portion_tokens)
    events = await _read_into(summary_input, context, end, choice, depth)
    written = await write_summary(
        dependencies.provider,
        models,
        model,
        summary_input,
        prompt=prompt,
        previous=previous.text if previous else "",
        max_tokens=max_tokens,
        spend=context.allowance.spend,
    )
    if written is None:
        log.warning("summary_not_written", conversation_id=conversation_id)
        return None
    covered_events = events[: written.covered]
    sizes = await contexts.count_items(
        [(event.item_id, from_stored(event.item)) for event in covered_events], choice.encoding
    )
    earlier_originals = settings.compaction[1].originals if settings.compaction else ()
    [tokens_after] = await count_off_loop([written.text], choice.encoding)
    return CompactContext(
        compaction_id=mint(COMPACTION),
        summary=written.text,
        first=previous.first if previous else covered_events[0].item_id,
        last=covered_events[-1].item_id,
        depth=covered_events[-1].depth,
        branch=_branch_of(covered_events[-1], path.end, settings.forked_from),
        count=written.covered + (previous.count if previous else 0),
        tokens_before=sum(sizes) + (previous.tokens_before if previous else 0),
        tokens_after=tokens_after,
        model=model,
        read_version=version,
        replaces=previous.version if previous and settings.compacted_in == conversation_id else 0,
        usage=written.usage,
        cost=models.cost(model, written.usage),
        read_position=max((head.position for head in last_events if head is not None), default=0),
        originals=tuple(
            {*earlier_originals, *(event.copy_of for event in covered_events if event.copy_of is not None)}
        ),
    )


def _branch_of(event: ItemAppended, end: PathSegment, forked_from: Fork | None) -> int:
    """Inherited items count as items of branch 0."""
    kept, inherited = end.branches[0].last_depth, forked_from.depth if forked_from else 0
    return 0 if event.depth <= (inherited if kept is None else min(kept, inherited)) else event.branch


async def _read_into(
    summary_input: SummaryInput, context: CommandContext, end: PathSegment, choice: ContextChoice, depth: int
) -> list[ItemAppended]:
    """Adds items after the previous summary and before `depth`, until the input is full. Returns their events."""
    previous = choice.recent.summary
    events: list[ItemAppended] = []
    path = context.dependencies.contexts.path(end, previous.last if previous else None)
    async for event in path:
        if event.depth >= depth or summary_input.is_full:
            break
        events.append(event)
        await summary_input.add(from_stored(event.item))
    return events
