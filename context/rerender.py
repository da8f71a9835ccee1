"""Renders the body of a recorded request again from the log.

Later events do not change the result, except that deleted content can be blanked.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from context.branch_paths import active_branches
from context.conversation_settings import (
    SUMMARY_TOKENS,
    Reader,
    Summary,
    counted_summary,
    family_of,
    instructions_and_policy,
    unretracted,
)
from context.deleted_content import deleted_items
from context.forks import fork_of, lineage
from context.history_forwards import path
from context.inlined_contents import BodyWithContents, inlined_sha256, with_contents, without_references
from context.item_counts import ItemCounts
from context.noted_items import noted_tokens
from context.rendering import render, render_transcript, renders_transcripts, request_sha256, unsendable
from context.stored_items import StoredItem, stored_item
from context.summary_changes import PAGE_CHANGES
from context.tokens import count_off_loop
from context.transcripts.rendered import rendered_transcript
from context.withdrawn_summaries import is_withdrawn
from domain.errors import ContentGone, ContentsTooLarge
from domain.events import ContextCompacted, ItemAppended, ReplyRequested, Shown, ShownRange
from domain.items import Item, emptied
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded

Turn = Callable[[], AbstractAsyncContextManager[None]]


class ShownItem(Struct, frozen=True, kw_only=True):
    """An item of the request.

    `tokens`: in the recorded encoding. `copy_of`: the id of the original, if this is a copy. `is_blanked`: the item is
    deleted now, and the caller is not shown deleted content.
    """

    item_id: str
    item: Item
    tokens: int
    copy_of: str | None = None
    is_blanked: bool = False


class Rerendered(Struct, frozen=True, kw_only=True):
    """A body that was rendered again.

    `matches`: whether the body has the recorded SHA-256, or None if something is blanked. `items`: the items that were
    sent, with the input of the request last. `summary_is_blanked`: the summary's text is left out, because the summary
    covers a deleted item.
    """

    body: dict[str, Any]
    matches: bool | None
    items: tuple[ShownItem, ...]
    summary: Summary | None
    summary_tokens: int
    summary_is_blanked: bool = False


async def rerender(
    reader: Reader,
    conversation_id: str,
    requested: Recorded,
    counts: ItemCounts,
    *,
    with_deleted: bool = True,
    turn: Turn = nullcontext,
) -> Rerendered:
    """Raises psycopg.Error, UnreadableEvent and LogMoved, and what `turn` raises.

    `turn`: waits for a turn to read the request's images and files, of up to 50 MB as base64. Without
    `with_deleted`, deleted content is blanked. Deleted items keep their places in the body.
    """
    request = requested.event
    assert isinstance(request, ReplyRequested)
    shown = request.shown
    if renders_transcripts(shown.renderer):
        return await _rerender_transcript(reader, requested, request, counts, with_deleted=with_deleted, turn=turn)
    parameters: dict[str, Any] = msgspec.json.decode(request.parameters)
    compacted: Recorded | None = None
    cache_key = conversation_id
    instructions: tuple[str | None, ...] = (parameters.get("instructions"),)
    items: list[StoredItem] = []
    if shown.version:
        settings_events = await reader.settings_events(conversation_id, until=shown.version)
        instructions = (instructions_and_policy(settings_events)[0], *instructions)
        cache_key = family_of(settings_events) or conversation_id
        compacted = await _compacted(reader, conversation_id, shown.version, shown.summary)
        single_items = await _single_items(reader, conversation_id, shown)
        end = await _end(reader, requested, request)
        for shown_range in shown.ranges:
            single = single_items.get(shown_range.first)
            items += single or await _range(reader, end, requested.position, shown_range)
    items += map(stored_item, request.input)
    not_sent = unsendable(shown.renderer, [stored.item for stored in items])
    sent = [stored for index, stored in enumerate(items) if index not in not_sent]
    sent_items = [(stored.item_id, stored.item) for stored in sent]
    tokens = await counts.of(sent_items, shown.encoding)
    noted = await noted_tokens(sent_items, shown.renderer, shown.notes, counts, shown.encoding)
    summary = await _summary(compacted)
    [summary_text_tokens] = await count_off_loop([summary.text if summary else ""], shown.encoding)
    deleted = frozenset[str]()
    summary_is_blanked = False
    if not with_deleted:
        conversations = await lineage(reader, conversation_id)
        deleted = await deleted_items(reader, {stored.item_id: stored.copy_of for stored in sent}, conversations)
        summary_is_blanked = compacted is not None and await is_withdrawn(
            reader,
            compacted,
            await fork_of(reader, compacted.conversation_id),
            conversations[: conversations.index(compacted.conversation_id)],
        )
        if summary is not None and summary_is_blanked:
            summary = replace(summary, text="")
    body = render(
        shown.renderer,
        model=request.model,
        instructions=[text for text in instructions if text],
        summary=summary.text if summary else None,
        items=[emptied(stored.item) if stored.item_id in deleted else stored.item for stored in sent],
        parameters=parameters,
        item_ids=[stored.item_id for stored in sent],
        missing=shown.notes,
        cache_key=cache_key,
    )
    is_complete = not (deleted or summary_is_blanked)
    return Rerendered(
        body=without_references(body),
        matches=await _matches(reader, body, shown, turn) if is_complete else None,
        items=tuple(
            ShownItem(
                item_id=stored.item_id,
                item=stored.item,
                tokens=noted.get(index, item_tokens),
                copy_of=stored.copy_of,
                is_blanked=stored.item_id in deleted,
            )
            for index, (stored, item_tokens) in enumerate(zip(sent, tokens, strict=True))
        ),
        summary=summary,
        summary_tokens=SUMMARY_TOKENS + summary_text_tokens if summary else 0,
        summary_is_blanked=summary_is_blanked,
    )


async def _rerender_transcript(
    reader: Reader, requested: Recorded, request: ReplyRequested, counts: ItemCounts, *, with_deleted: bool, turn: Turn
) -> Rerendered:
    messages = await rendered_transcript(reader, requested, with_deleted=with_deleted)
    body = render_transcript(
        request.shown.renderer,
        model=request.model,
        messages=[each.message for each in messages],
        parameters=msgspec.json.decode(request.parameters),
    )
    items = [stored for each in messages for stored in each.items]
    tokens = await counts.of([(stored.item_id, stored.item) for stored in items], request.shown.encoding)
    is_complete = not any(each.is_blanked for each in messages)
    return Rerendered(
        body=without_references(body),
        matches=await _matches(reader, body, request.shown, turn) if is_complete else None,
        items=tuple(
            ShownItem(
                item_id=stored.item_id,
                item=stored.item,
                tokens=item_tokens,
                copy_of=stored.copy_of,
                is_blanked=stored.is_deleted,
            )
            for stored, item_tokens in zip(items, tokens, strict=True)
        ),
        summary=None,
        summary_tokens=0,
    )


async def _matches(reader: Reader, body: dict[str, Any], shown: Shown, turn: Turn) -> bool:
    """Puts images and files back first. False if one of them is gone."""
    try:
        body = with_contents(reader, body)
        if not isinstance(body, BodyWithContents):
            return request_sha256(body) == shown.request_sha256
        async with turn():
            return await inlined_sha256(body) == shown.request_sha256
    except (ContentsTooLarge, ContentGone):
        return False


async def _single_items(reader: Reader, conversation_id: str, shown: Shown) -> dict[str, list[StoredItem]]:
    ids = [shown_range.first for shown_range in shown.ranges if shown_range.count == 1]
    appended = await unretracted(reader, conversation_id, shown.version, ids)
    return {
        item_id: [stored_item(recorded.event)]
        for item_id, recorded in appended.items()
        if isinstance(recorded.event, ItemAppended)
    }


async def _end(reader: Reader, requested: Recorded, request: ReplyRequested) -> PathSegment:
    """The path to `after`, or the path that was active when the request was recorded."""
    conversation_id = requested.conversation_id
    branches = (
        request.after.path if request.after else await active_branches(reader, conversation_id, requested.version)
    )
    return PathSegment(conversation_id, request.shown.version, branches)


async def _range(reader: Reader, end: PathSegment, position: int, shown_range: ShownRange) -> list[StoredItem]:
    items: list[StoredItem] = []
    async for event in path(reader, end, first=shown_range.first, recorded_at=position):
        items.append(stored_item(event))
        if event.item_id == shown_range.last:
            break
    return items


async def _compacted(reader: Reader, conversation_id: str, version: int, compaction_id: str | None) -> Recorded | None:
    while compaction_id is not None:
        until = version
        while changes := await reader.summary_changes(conversation_id, until=until, limit=PAGE_CHANGES):
            for recorded in changes:
                if isinstance(event := recorded.event, ContextCompacted) and event.compaction_id == compaction_id:
                    return recorded
            until = changes[-1].version - 1
        fork = await fork_of(reader, conversation_id)
        if fork is None:
            return None
        conversation_id, version = fork.conversation_id, fork.version
    return None


async def _summary(compacted: Recorded | None) -> Summary | None:
    if compacted is None or not isinstance(event := compacted.event, ContextCompacted):
        return None
    return await counted_summary((compacted.version, event))
