"""The view `items`: one document per item.

`version`, `retracted_version`: the conversation's version when the item was added, and when it was retracted
`restored_version`: the conversation's version when the item was last restored. Only the log has earlier retractions
`copy_of`: the original of a copy. Readers ask the log whether the original is deleted
`parent`: the item before this one on its path; null for a first item
`parent_branch`: the branch of `parent`, 0 for a first item. Only items that open a branch have this field
`author`: who appended the item, or asked for the reply that made it
`model`: the model of the completed reply that made the item, as the provider named it
`feedback_position`: the log position of the last feedback or withdrawal
`own_fields`: true if the item itself has a field that lists add (`domain/items.py`)
"""

from collections.abc import Iterator

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from domain.events import FeedbackGiven, FeedbackWithdrawn, ItemAppended, ItemRestored, ItemRetracted, ReplyCompleted
from domain.items import LISTED_FIELDS, from_stored, output_item, preview_of, type_of
from domain.paths import Path
from infrastructure.event_log.recorded import Logged
from projections.views.document_size import MAX_ITEM_BYTES, shortened
from projections.views.writes import Document, Insert, Update, Write, document_key, microseconds


class ItemRange(Struct, frozen=True):
    """Consecutive items of a path on one branch. `last_depth` None: up to the branch's end."""

    conversation_id: str
    version: int
    branch: int
    first_depth: int
    last_depth: int | None

    def filter(self, tenant: str) -> Document:
        """Matches the items of the range, also retracted ones."""
        return {**self.segment_filter(tenant), **self.place_filter}

    def segment_filter(self, tenant: str) -> Document:
        """The part of the filter that is the same for all ranges of a segment of the path."""
        return {"tenant": tenant, "conversation_id": self.conversation_id, "version": {"$lte": self.version}}

    @property
    def place_filter(self) -> Document:
        """The other part of the filter."""
        if self.last_depth == self.first_depth:
            return {"branch": self.branch, "depth": self.first_depth}
        last = {} if self.last_depth is None else {"$lte": self.last_depth}
        return {"branch": self.branch, "depth": {"$gte": self.first_depth, **last}}

    def within(self, min_depth: int, max_depth: int | None) -> "ItemRange | None":
        first = max(self.first_depth, min_depth)
        last = self.last_depth
        if max_depth is not None and (last is None or last > max_depth):
            last = max_depth
        return None if last is not None and last < first else replace(self, first_depth=first, last_depth=last)


def item_ranges(path: Path, *, descending: bool = False) -> Iterator[ItemRange]:
    """The ranges of the path, in order of depth. Each is made when it is asked for: a page needs few of a long path."""
    step = -1 if descending else 1
    for number in range(len(path.segments))[::step]:
        segment = path.segments[number]
        before_segment = path.segments[number - 1].last_depth if number else None
        for index in range(len(segment.branches))[::step]:
            taken = segment.branches[index]
            first_depth = ((segment.branches[index - 1].last_depth if index else before_segment) or 0) + 1
            if taken.last_depth is None or taken.last_depth >= first_depth:
                yield ItemRange(segment.conversation_id, segment.version, taken.branch, first_depth, taken.last_depth)
            # Otherwise, the path has no items on this branch in this conversation.


def item_writes(logged: Logged) -> Iterator[Write]:
    event = logged.event
    match event:
        case ItemAppended():
            key = document_key(logged.tenant, event.item_id)
            item = from_stored(event.item)
            copy = {} if event.copy_of is None else {"copy_of": event.copy_of}
            opens_branch = event.branch == logged.version
            has_own_fields = not item.keys().isdisjoint(LISTED_FIELDS)
            yield Insert(
                "items",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "conversation_id": logged.conversation_id,
                    "id": event.item_id,
                    "parent": event.parent_id,
                    "branch": event.branch,
                    "depth": event.depth,
                    "version": logged.version,
                    "retracted_version": None,
                    "type": type_of(item),
                    "role": item.get("role") if type_of(item) == "message" else None,
                    "preview": preview_of(item),
                    "author": event.author,
                    "item": shortened(msgspec.json.encode(output_item(event.item_id, item)), MAX_ITEM_BYTES).decode(),
                    "response_id": event.response_id,
                    "created_at": microseconds(logged.recorded_at),
                    **({"parent_branch": event.leaves[-1].branch if event.leaves else 0} if opens_branch else {}),
                    **({"own_fields": True} if has_own_fields else {}),
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
            yield Update("items", document_key(logged.tenant, item_id), {"feedback_position": logged.position}, counts)
        case FeedbackWithdrawn(inherited=False, item_id=str(item_id)):
            counts = {_counted(event.rating): -1}
            yield Update("items", document_key(logged.tenant, item_id), {"feedback_position": logged.position}, counts)
        case ReplyCompleted():
            for item_id in event.output_ids:
                yield Update("items", document_key(logged.tenant, item_id), {"model": event.model})
        case _:
            return


def _counted(rating: int) -> str:
    return "positive" if rating > 0 else "negative"
