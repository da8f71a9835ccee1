"""Finds items by their ids, whatever their conversation: the one place that says which of them a caller may read."""

from collections.abc import Collection

from commands.command_route import CommandContext
from domain.events import ItemAppended, ItemRetracted
from infrastructure.event_log.reader import MAX_PAGE_BYTES
from infrastructure.event_log.recorded import Recorded
from infrastructure.http.errors import ApiError


async def find_readable(context: CommandContext, item_ids: Collection[str]) -> dict[str, Recorded]:
    """The ItemAppended of each of these items that the caller may read: those of the caller's tenant, not retracted, in conversations that exist.

    At most MAX_BATCH_LOOKUPS ids. Reads the log, so it finds what was just appended. Raises ApiError (413) if the items are too large together.
    """
    if not item_ids:
        return {}
    reader, tenant = context.dependencies.reader, context.principal.tenant
    rows = await reader.items_of_tenant(tenant, list(item_ids), MAX_PAGE_BYTES)
    if rows is None:
        message = f"The items that `input` names by their ids are larger than {MAX_PAGE_BYTES} bytes together."
        raise ApiError(413, message, code="request_too_large", param="input")
    found: dict[str, Recorded] = {}
    for recorded in rows:
        match recorded.event:
            case ItemAppended(item_id=item_id):
                found[item_id] = recorded
            case ItemRetracted(item_id=item_id):
                found.pop(item_id, None)
            case _:
                pass
    conversations = list({recorded.conversation_id for recorded in found.values()})
    last_events = await reader.head_of_each(conversations) if conversations else []
    exist = {
        conversation
        for conversation, head in zip(conversations, last_events, strict=True)
        if head is not None and not head.deleted and head.tenant == tenant
    }
    return {item_id: recorded for item_id, recorded in found.items() if recorded.conversation_id in exist}
