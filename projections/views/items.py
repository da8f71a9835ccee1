"""The view `items`: one document per item.

`version` and `retracted_version` say at which versions of the conversation the item was added and retracted, so a reader can show any
earlier version. `restored_version`: the version at which the item was last restored; absent if it never was. Only the log has what was
before that. A copy of another item has `copy_of`: readers ask the log whether that item is deleted (`context/deleted_content.py`).
"""

from collections.abc import Iterator

import msgspec

from domain.events import FeedbackGiven, FeedbackWithdrawn, ItemAppended, ItemRestored, ItemRetracted
from domain.items import from_stored, output_item, type_of
from domain.paths import PathSegment
from infrastructure.event_log.recorded import Logged
from projections.views.document_size import MAX_ITEM_BYTES, shortened
from projections.views.writes import Document, Insert, Update, Write, document_key, microseconds


def items_on(tenant: str, segment: PathSegment) -> Document:
    """The filter for the items on this part of a path, retracted or not."""
    where: Document = {
        "tenant": tenant,
        "conversation_id": segment.conversation_id,
        "version": {"$lte": segment.version},
    }
    branches: list[Document] = [
        {"branch": taken.branch}
        if taken.last_depth is None
        else {"branch": taken.branch, "depth": {"$lte": taken.last_depth}}
        for taken in segment.branches
    ]
    is_simple = len(branches) == 1 and segment.last_depth is None
    return {**where, **branches[0]} if is_simple else {**where, "$or": branches}


def item_writes(logged: Logged) -> Iterator[Write]:
    """The writes of one event."""
    event = logged.event
    match event:
        case ItemAppended():
            key = document_key(logged.tenant, event.item_id)
            item = from_stored(event.item)
            copy = {} if event.copy_of is None else {"copy_of": event.copy_of}
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
                    **copy,
                },
            )
        case ItemRetracted(inherited=False):
            yield Update("items", document_key(logged.tenant, event.item_id), {"retracted_version": logged.version})
        case ItemRestored(inherited=False):
            restored = {"retracted_version": None, "restored_version": logged.version}
            yield Update("items", document_key(logged.tenant, event.item_id), restored)
        case FeedbackGiven(inherited=False, item_id=str(item_id)):
            counts = {_counted(event.rating): 1}
            if event.previous is not None:
                counts[_counted(event.previous)] = counts.get(_counted(event.previous), 0) - 1
            yield Update("items", document_key(logged.tenant, item_id), {}, counts)
        case FeedbackWithdrawn(inherited=False, item_id=str(item_id)):
            yield Update("items", document_key(logged.tenant, item_id), {}, {_counted(event.rating): -1})
        case _:
            return


def _counted(rating: int) -> str:
    """The field that counts feedback with this rating. It is absent if there never was any."""
    return "positive" if rating > 0 else "negative"
