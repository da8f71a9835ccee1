"""Renders the body of a recorded request again from the log, whatever happened to the conversation since.

`Shown`, in the ReplyRequested event, names the version, the ranges, the summary and the renderer. The texts of items, instructions and the
summary come from other events of the log; the model, the parameters and the input from ReplyRequested itself.
"""

from typing import Any

import msgspec
from msgspec import Struct

from context.conversation_settings import (
    SUMMARY_TOKENS,
    Reader,
    Summary,
    counted_summary,
    instructions_and_policy,
    unretracted,
)
from context.history_forwards import path
from context.item_counts import ItemCounts
from context.rendering import render, request_sha256, unsendable
from context.tokens import count_off_loop
from domain.events import SUMMARY, ContextCompacted, ItemAppended, ReplyRequested, Shown, ShownRange
from domain.items import Item, from_stored
from infrastructure.event_log.recorded import Recorded


class ShownItem(Struct, frozen=True, kw_only=True):
    """An item that was sent, and its tokens in the recorded encoding."""

    item_id: str
    item: Item
    tokens: int


class Rerendered(Struct, frozen=True, kw_only=True):
    """`matches`: the body has the recorded SHA-256. `items`: those that were sent, the request's own input last.

    `summary_tokens`: tokens of the summary, 0 if there was none.
    """

    body: dict[str, Any]
    matches: bool
    items: tuple[ShownItem, ...]
    summary: Summary | None
    summary_tokens: int


async def rerender(reader: Reader, conversation_id: str, requested: Recorded, counts: ItemCounts) -> Rerendered:
    """Renders again the provider request that was sent for `requested`, a recorded ReplyRequested. Raises psycopg.Error and UnreadableEvent."""
    request = requested.event
    assert isinstance(request, ReplyRequested)
    shown = request.shown
    parameters: dict[str, Any] = msgspec.json.decode(request.parameters)
    summary = None
    instructions: tuple[str | None, ...] = (parameters.get("instructions"),)
    ids_and_items: list[tuple[str, Item]] = []
    if shown.version:
        settings_events = await reader.settings_events(conversation_id, until=shown.version)
        instructions = (instructions_and_policy(settings_events)[0], *instructions)
        summary = await _summary(reader, conversation_id, shown.version, shown.summary)
        single_items = await _single_items(reader, conversation_id, shown)
        for shown_range in shown.ranges:
            single = single_items.get(shown_range.first)
            ids_and_items += single or await _range(reader, conversation_id, shown.version, shown_range)
    ids_and_items += [(new.item_id, from_stored(new.item)) for new in request.input]
    not_sent = unsendable(shown.renderer, [item for _, item in ids_and_items])
    sent = [pair for index, pair in enumerate(ids_and_items) if index not in not_sent]
    body = render(
        shown.renderer,
        model=request.model,
        instructions=[text for text in instructions if text],
        summary=summary.text if summary else None,
        items=[item for _, item in sent],
        parameters=parameters,
        item_ids=[item_id for item_id, _ in sent],
    )
    tokens = await counts.of(sent, shown.encoding)
    [summary_text_tokens] = await count_off_loop([summary.text if summary else ""], shown.encoding)
    return Rerendered(
        body=body,
        matches=request_sha256(body) == shown.request_sha256,
        items=tuple(
            ShownItem(item_id=item_id, item=item, tokens=item_tokens)
            for (item_id, item), item_tokens in zip(sent, tokens, strict=True)
        ),
        summary=summary,
        summary_tokens=SUMMARY_TOKENS + summary_text_tokens if summary else 0,
    )


async def _single_items(reader: Reader, conversation_id: str, shown: Shown) -> dict[str, list[tuple[str, Item]]]:
    """The items of the ranges with exactly one item, by item id, read in one query.

    Items in a fork's origin are not found here: `_range` reads them.
    """
    ids = [shown_range.first for shown_range in shown.ranges if shown_range.count == 1]
    appended = await unretracted(reader, conversation_id, shown.version, ids)
    return {
        item_id: [(item_id, from_stored(recorded.event.item))]
        for item_id, recorded in appended.items()
        if isinstance(recorded.event, ItemAppended)
    }


async def _range(reader: Reader, conversation_id: str, version: int, shown: ShownRange) -> list[tuple[str, Item]]:
    """The items from the range's first to its last, as the path was at `version`."""
    items: list[tuple[str, Item]] = []
    async for event in path(reader, conversation_id, version, first=shown.first):
        items.append((event.item_id, from_stored(event.item)))
        if event.item_id == shown.last:
            break
    return items


async def _summary(reader: Reader, conversation_id: str, version: int, compaction_id: str | None) -> Summary | None:
    for recorded in await reader.items(conversation_id, [SUMMARY], until=version) if compaction_id else ():
        if isinstance(event := recorded.event, ContextCompacted) and event.compaction_id == compaction_id:
            return await counted_summary((recorded.version, event))
    return None
