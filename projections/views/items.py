"""The view `items`: one document per item.

`version` and `retracted_version` say at which versions of the conversation the item was added and retracted, so a reader can show any
earlier version.
"""

from collections.abc import Iterator

import msgspec

from domain.events import ItemAppended, ItemRetracted
from domain.items import from_stored, output_item, type_of
from infrastructure.event_log.recorded import Logged
from projections.views.document_size import MAX_ITEM_BYTES, shortened
from projections.views.writes import Insert, Update, Write, document_key, microseconds


def item_writes(logged: Logged) -> Iterator[Write]:
    """What one event writes."""
    event = logged.event
    match event:
        case ItemAppended():
            key = document_key(logged.tenant, event.item_id)
            item = from_stored(event.item)
            yield Insert(
                "items",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "conversation_id": logged.conversation_id,
                    "id": event.item_id,
                    "branch": event.branch,
                    "depth": event.depth,
                    "version": logged.version,
                    "retracted_version": None,
                    "type": type_of(item),
                    "item": shortened(msgspec.json.encode(output_item(event.item_id, item)), MAX_ITEM_BYTES).decode(),
                    "response_id": event.response_id,
                    "created_at": microseconds(logged.recorded_at),
                },
            )
        case ItemRetracted():
            yield Update("items", document_key(logged.tenant, event.item_id), {"retracted_version": logged.version})
        case _:
            return
