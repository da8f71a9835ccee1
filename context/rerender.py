"""The body of an old request once more, from the log: whatever was appended, pinned, retracted, summarized or described since.

What is on record (`Shown`) names the version, the ranges, the summary and the renderer; the log has all the rest.
"""

from typing import Any

import msgspec
from msgspec import Struct

from context.conversation_settings import SUMMARY_TOKENS, Reader, Summary, described, summary_of, unretracted
from context.history_forwards import path
from context.item_counts import ItemCounts
from context.rendering import render, request_sha256, unsendable
from context.tokens import count_off_loop
from domain.events import SUMMARY, ContextCompacted, ItemAppended, ReplyRequested, Shown, ShownRange
from domain.items import Item, from_stored
from infrastructure.event_log.recorded import Recorded


class ShownItem(Struct, frozen=True, kw_only=True):
    """An item that was sent, and its tokens as they were counted."""

    item_id: str
    item: Item
    tokens: int


class Rerendered(Struct, frozen=True, kw_only=True):
    """A body rendered again. `matches`: it has the SHA-256 on record. `items` are those that were sent, the input last.

    `summary_tokens` are what the summary was counted as.
    """

    body: dict[str, Any]
    matches: bool
    items: tuple[ShownItem, ...]
    summary: Summary | None
    summary_tokens: int


async def rerender(reader: Reader, conversation_id: str, requested: Recorded, counts: ItemCounts) -> Rerendered:
    """The body of the request that `requested`, a ReplyRequested, recorded. Raises psycopg.Error and UnreadableEvent."""
    request = requested.event
    assert isinstance(request, ReplyRequested)
    shown = request.shown
    parameters: dict[str, Any] = msgspec.json.decode(request.parameters)
    summary = None
    instructions: tuple[str | None, ...] = (parameters.get("instructions"),)
    ids_and_items: list[tuple[str, Item]] = []
    if shown.version:
        stands = await reader.settings_events(conversation_id, until=shown.version)
        instructions = (described(stands)[0], *instructions)
        summary = await _summary(reader, conversation_id, shown.version, shown.summary)
        alone = await _single(reader, conversation_id, shown)
        for each in shown.ranges:
            found = alone.get(each.first) or await _range(reader, conversation_id, shown.version, each)
            ids_and_items += found
    ids_and_items += [(given.item_id, from_stored(given.item)) for given in request.input]
    not_sent = unsendable(shown.renderer, [item for _, item in ids_and_items])
    sent = [each for index, each in enumerate(ids_and_items) if index not in not_sent]
    body = render(
        shown.renderer,
        model=request.model,
        instructions=[text for text in instructions if text],
        summary=summary.text if summary else None,
        items=[item for _, item in sent],
        parameters=parameters,
    )
    sizes = await counts.of(sent, shown.encoding)
    [counted] = await count_off_loop([summary.text if summary else ""], shown.encoding)
    return Rerendered(
        body=body,
        matches=request_sha256(body) == shown.request_sha256,
        items=tuple(
            ShownItem(item_id=ident, item=item, tokens=size) for (ident, item), size in zip(sent, sizes, strict=True)
        ),
        summary=summary,
        summary_tokens=SUMMARY_TOKENS + counted if summary else 0,
    )


async def _single(reader: Reader, conversation_id: str, shown: Shown) -> dict[str, list[tuple[str, Item]]]:
    """Those ranges that are one item of this conversation, found together."""
    ids = [each.first for each in shown.ranges if each.count == 1]
    found = await unretracted(reader, conversation_id, shown.version, ids)
    return {
        ident: [(ident, from_stored(recorded.event.item))]
        for ident, recorded in found.items()
        if isinstance(recorded.event, ItemAppended)
    }


async def _range(reader: Reader, conversation_id: str, version: int, shown: ShownRange) -> list[tuple[str, Item]]:
    """The items from its first to its last, as the path was at `version`."""
    found: list[tuple[str, Item]] = []
    async for event in path(reader, conversation_id, version, begin=shown.first):
        found.append((event.item_id, from_stored(event.item)))
        if event.item_id == shown.last:
            break
    return found


async def _summary(reader: Reader, conversation_id: str, version: int, compaction_id: str | None) -> Summary | None:
    for recorded in await reader.items(conversation_id, [SUMMARY], until=version) if compaction_id else ():
        if isinstance(event := recorded.event, ContextCompacted) and event.compaction_id == compaction_id:
            return await summary_of((recorded.version, event))
    return None
