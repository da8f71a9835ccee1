"""Finds items by their ids, in all conversations of the caller's tenant."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from commands.command_route import CommandContext
from context.deleted_content import deleted_items
from domain.events import ItemAppended
from infrastructure.event_log.conversation_reader import MAX_PAGE_BYTES
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS
from infrastructure.http.errors import ApiError


class FoundItems(Struct, frozen=True):
    """The recorded ItemAppended of each item, by item id. `existing`: not deleted."""

    existing: Mapping[str, Recorded]
    readable: Mapping[str, Recorded]
    deleted: Mapping[str, Recorded]


async def find_items(context: CommandContext, item_ids: Collection[str]) -> FoundItems:
    """Finds items in the caller's tenant, in the log. Raises ApiError (413) if they are too large together."""
    if not item_ids:
        return FoundItems({}, {}, {})
    rows = await context.dependencies.reader.items_of_tenant(list(item_ids), MAX_PAGE_BYTES)
    if rows is None:
        message = f"The items that `input` names by their ids are larger than {MAX_PAGE_BYTES} bytes together."
        raise ApiError(413, message, code="request_too_large", param="input")
    readable = await _readable(context, list({recorded.conversation_id for recorded in rows}))
    appended = {event.item_id: recorded for recorded in rows if isinstance(event := recorded.event, ItemAppended)}
    copies = {item_id: _copy_of(recorded) for item_id, recorded in appended.items()}
    deleted = await deleted_items(context.dependencies.reader, copies)
    existing = {item_id: recorded for item_id, recorded in appended.items() if item_id not in deleted}
    return FoundItems(
        existing=existing,
        readable={item_id: found for item_id, found in existing.items() if found.conversation_id in readable},
        deleted={item_id: appended[item_id] for item_id in deleted},
    )


def _copy_of(appended: Recorded) -> str | None:
    assert isinstance(appended.event, ItemAppended)
    return appended.event.copy_of


async def _readable(context: CommandContext, conversations: list[str]) -> set[str]:
    reader = context.dependencies.reader
    found: set[str] = set()
    for start in range(0, len(conversations), MAX_BATCH_LOOKUPS):
        page = conversations[start : start + MAX_BATCH_LOOKUPS]
        found |= {
            conversation
            for conversation, head in zip(page, await reader.head_of_each(page), strict=True)
            if reader.readable(head) is not None
        }
    return found
