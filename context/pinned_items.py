"""Reads pinned items from the log, with the calls and outputs that belong to these items."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import fork_of
from context.item_counts import ItemCounts
from context.path_backwards import PAGE_EVENTS
from context.rendering.orphans import call_key, is_output, pairs
from context.selection import ContextItem
from context.stored_items import counted_items
from domain.events import ItemAppended
from domain.items import from_stored
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Recorded


class OnPath(Struct, frozen=True):
    """Items found on a path.

    `rows`: by item id, the item's segment and its ItemAppended. `conversations`: the conversations that were
    searched, beginning at the path's end.
    """

    rows: dict[str, tuple[PathSegment, Recorded]]
    conversations: list[str]


async def appended_on_path(reader: Reader, end: PathSegment, item_ids: Sequence[str]) -> OnPath:
    """Finds the items that are on the path, also deleted ones."""
    found: dict[str, tuple[PathSegment, Recorded]] = {}
    conversations: list[str] = []
    segment: PathSegment | None = end
    while segment is not None and (missing := [item_id for item_id in item_ids if item_id not in found]):
        conversations.append(segment.conversation_id)
        rows = await reader.items(segment.conversation_id, missing, until=segment.version)
        for row in rows:
            event = row.event
            if isinstance(event, ItemAppended) and segment.contains(event.branch, event.depth, row.version):
                found[event.item_id] = segment, row
        fork = (
            await fork_of(reader, segment.conversation_id) if any(item_id not in found for item_id in missing) else None
        )
        segment = segment.origin(fork) if fork else None
    return OnPath(found, conversations)


async def undeleted_on_path(reader: Reader, end: PathSegment, item_ids: Sequence[str]) -> dict[str, Recorded]:
    """The ItemAppended of each item that is on the path and not deleted now."""
    found = await appended_on_path(reader, end, item_ids)
    appended = [row.event for _, row in found.rows.values() if isinstance(row.event, ItemAppended)]
    copies = {event.item_id: event.copy_of for event in appended}
    deleted = await deleted_items(reader, copies, found.conversations)
    return {item_id: row for item_id, (_, row) in found.rows.items() if item_id not in deleted}


async def items_on_path(
    reader: Reader, end: PathSegment, item_ids: Sequence[str], counts: ItemCounts
) -> tuple[ContextItem, ...]:
    """The items that are on the path and not deleted now, ordered by depth."""
    rows = await undeleted_on_path(reader, end, item_ids)
    kept = [row.event for row in rows.values() if isinstance(row.event, ItemAppended)]
    return tuple(sorted(await counted_items(kept, counts), key=lambda item: item.depth))


async def partners_of_pins(
    reader: Reader, end: PathSegment, items: Sequence[ContextItem], pinned: Collection[str], counts: ItemCounts
) -> tuple[ContextItem, ...]:
    """The outputs of pinned calls, and the calls of pinned outputs, that `items` lacks.

    A partner is looked for within PAGE_EVENTS events of the pinned item.
    """
    if not pinned:
        return ()
    paired = {index for pair in pairs([item.item for item in items]) for index in pair}
    unpaired = [
        item
        for index, item in enumerate(items)
        if item.item_id in pinned and index not in paired and call_key(item.item) is not None
    ]
    if not unpaired:
        return ()
    rows = (await appended_on_path(reader, end, [pin.item_id for pin in unpaired])).rows
    partners: list[str] = []
    for pin in unpaired:
        if pin.item_id not in rows:
            continue
        segment, row = rows[pin.item_id]
        conversation_id = segment.conversation_id
        if is_output(pin.item):
            page = await reader.conversation_backwards(conversation_id, until=row.version - 1, limit=PAGE_EVENTS)
        else:
            page = await reader.conversation(
                conversation_id, after=row.version, until=segment.version, limit=PAGE_EVENTS
            )
        for recorded in page:
            event = recorded.event
            if isinstance(event, ItemAppended) and segment.contains(event.branch, event.depth, recorded.version):
                item = from_stored(event.item)
                if call_key(item) == call_key(pin.item):
                    if is_output(item) != is_output(pin.item):
                        partners.append(event.item_id)
                    break
    ids = {item.item_id for item in items}
    missing = [item_id for item_id in dict.fromkeys(partners) if item_id not in ids]
    return await items_on_path(reader, end, missing, counts)
