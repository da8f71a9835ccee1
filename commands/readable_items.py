"""Finds items by their ids in all conversations. For items that `input` names, only this module decides which ones the caller may read."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from commands.command_route import CommandContext
from context.deleted_content import deleted_items
from domain.events import ItemAppended
from infrastructure.event_log.reader import MAX_PAGE_BYTES
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS
from infrastructure.http.errors import ApiError


class FoundItems(Struct, frozen=True):
    """The recorded ItemAppended of each item, by item id. `readable`: items that the caller may read. `deleted`: items that are deleted by now."""

    readable: Mapping[str, Recorded]
    deleted: Mapping[str, Recorded]


async def find_items(context: CommandContext, item_ids: Collection[str]) -> FoundItems:
    """Finds the items that belong to the caller's tenant, the deleted ones separately.

    Reads the log, so it finds what was just appended. Raises ApiError (413) if the items are too large together.
    """
    if not item_ids:
        return FoundItems({}, {})
    reader, tenant = context.dependencies.reader, context.principal.tenant
    rows = await reader.items_of_tenant(tenant, list(item_ids), MAX_PAGE_BYTES)
    if rows is None:
        message = f"The items that `input` names by their ids are larger than {MAX_PAGE_BYTES} bytes together."
        raise ApiError(413, message, code="request_too_large", param="input")
    exist = await _existing(context, list({recorded.conversation_id for recorded in rows}))
    appended = {event.item_id: recorded for recorded in rows if isinstance(event := recorded.event, ItemAppended)}
    copies = {item_id: _copy_of(recorded) for item_id, recorded in appended.items()}
    deleted = await deleted_items(reader, tenant, copies)
    return FoundItems(
        readable={
            item_id: recorded
            for item_id, recorded in appended.items()
            if item_id not in deleted and recorded.conversation_id in exist
        },
        deleted={item_id: appended[item_id] for item_id in deleted},
    )


def _copy_of(appended: Recorded) -> str | None:
    assert isinstance(appended.event, ItemAppended)
    return appended.event.copy_of


async def _existing(context: CommandContext, conversations: list[str]) -> set[str]:
    """The conversations among these that belong to the caller's tenant and were not deleted."""
    reader, tenant = context.dependencies.reader, context.principal.tenant
    existing: set[str] = set()
    for start in range(0, len(conversations), MAX_BATCH_LOOKUPS):
        page = conversations[start : start + MAX_BATCH_LOOKUPS]
        existing |= {
            conversation
            for conversation, head in zip(page, await reader.head_of_each(page), strict=True)
            if head is not None and not head.deleted and head.tenant == tenant
        }
    return existing
