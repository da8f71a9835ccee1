"""Finds items by their ids in all conversations. For items that `input` names, only this module decides which ones the caller may read."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from commands.command_route import CommandContext
from domain.events import ItemAppended, ItemRetracted
from infrastructure.event_log.reader import MAX_PAGE_BYTES
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS
from infrastructure.http.errors import ApiError


class FoundItems(Struct, frozen=True):
    """The recorded ItemAppended of each item, by item id. `readable`: items that the caller may read. `retracted`: items that were retracted."""

    readable: Mapping[str, Recorded]
    retracted: Mapping[str, Recorded]


async def find_items(context: CommandContext, item_ids: Collection[str]) -> FoundItems:
    """Finds the items that belong to the caller's tenant and are in conversations that were not deleted. Retracted items are returned separately.

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
    readable: dict[str, Recorded] = {}
    retracted: dict[str, Recorded] = {}
    for recorded in rows:
        if recorded.conversation_id not in exist:
            continue
        match recorded.event:
            case ItemAppended(item_id=item_id):
                readable[item_id] = recorded
            case ItemRetracted(item_id=item_id) if item_id in readable:
                retracted[item_id] = readable.pop(item_id)
            case _:
                pass
    return FoundItems(readable, retracted)


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
