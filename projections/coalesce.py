"""Merges the many writes of a batch into few, for each view. Pure.

Apply a `ViewBatch` in this order: updates, removals, then inserts or increments.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from msgspec import Struct, field

from infrastructure.event_log.recorded import Logged
from projections.parking import is_applied
from projections.views.catalog import MongoView
from projections.views.event_writes import event_writes
from projections.views.partitions import partition_of
from projections.views.view_position import ViewPosition
from projections.views.writes import Add, Document, Insert, Remove, Update, Write


class Change(Struct):
    """The merged updates of one document."""

    set: Document = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)
    unset: dict[str, None] = field(default_factory=dict)


class Increment(Struct):
    """The merged increments of one document. A missing document is first created as `document`."""

    document: Document
    add: dict[str, int]
    position: int


class ViewBatch(Struct):
    """The merged writes into one view, by the documents' `_id`. `removed`: (tenant, conversation id)."""

    updates: dict[str, Change] = field(default_factory=dict)
    removed: dict[tuple[str, str], None] = field(default_factory=dict)
    inserts: dict[str, Document] = field(default_factory=dict)
    increments: dict[str, Increment] = field(default_factory=dict)
    _inserted_keys: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, write: Write) -> None:
        """Raises ValueError if a document is inserted twice."""
        match write:
            case Insert():
                if write.key in self.inserts:
                    raise ValueError(f"A document of {write.view} was inserted twice in one batch")
                self.inserts[write.key] = document = dict(write.document)
                self._inserted_keys[conversation_of(document)].add(write.key)
            case Update():
                if (inserted := self.inserts.get(write.key)) is not None:
                    apply_to(inserted, write)
                else:
                    _merge(self.updates.setdefault(write.key, Change()), write)
            case Add():
                if (increment := self.increments.get(write.key)) is None:
                    self.increments[write.key] = Increment(write.document, dict(write.add), write.position)
                else:
                    for name, amount in write.add.items():
                        increment.add[name] = increment.add.get(name, 0) + amount
                    increment.position = write.position
            case Remove():
                conversation = (write.tenant, write.conversation_id)
                self.removed[conversation] = None
                for key in self._inserted_keys.pop(conversation, ()):
                    del self.inserts[key]


def coalesce(writes: Iterable[Write]) -> dict[MongoView, ViewBatch]:
    batches: dict[MongoView, ViewBatch] = {}
    for write in writes:
        if (batch := batches.get(write.view)) is None:
            batch = batches[write.view] = ViewBatch()
        batch.add(write)
    return batches


def coalesce_for(view_positions: Sequence[ViewPosition], events: Sequence[Logged]) -> list[tuple[str, str, ViewBatch]]:
    """(view, collection, merged writes) for each collection. Of parked conversations, only deletions are merged.

    Raises UnreadableEvent.
    """
    by_collection: defaultdict[tuple[str, str], dict[int, ViewPosition]] = defaultdict(dict)
    by_partition: defaultdict[int, list[ViewPosition]] = defaultdict(list)
    for view_position in view_positions:
        by_collection[view_position.base_view, view_position.collection][view_position.partition] = view_position
        by_partition[view_position.partition].append(view_position)
    batches = [(view, collection, ViewBatch(), positions) for (view, collection), positions in by_collection.items()]
    for logged in events:
        partition = partition_of(logged.conversation_id)
        if not any(is_applied(logged, view_position.parked) for view_position in by_partition[partition]):
            continue
        for write in event_writes(logged):
            for view, _, batch, positions in batches:
                if view != write.view or (own_position := positions.get(partition)) is None:
                    continue
                if is_applied(logged, own_position.parked):
                    batch.add(write)
    return [(view, collection, batch) for view, collection, batch, _ in batches]


def conversation_of(document: Document) -> tuple[str, str]:
    """(tenant, conversation id) of a document of any view. In `usage` the id is empty."""
    return document["tenant"], document.get("conversation_id") or document.get("id", "")


def apply_to(document: Document, update: Update) -> None:
    """Changes the document like MongoDB (`$set`, `$inc`, `$unset`). A dotted name is a field of a nested object.

    A number in such a name is an index of an array.
    """
    for name, value in update.set.items():
        parent, last = _parent(document, name)
        parent[last] = value
    for name, amount in update.add.items():
        parent, last = _parent(document, name)
        parent[last] = parent.get(last, 0) + amount
    for name in update.unset:
        parent, last = _parent(document, name)
        parent.pop(last, None)


def _parent(document: Document, name: str) -> tuple[dict[str, Any], str]:
    if "." not in name:
        return document, name
    *path, last = name.split(".")
    parent: Any = document
    for step in path:
        key: Any = int(step) if isinstance(parent, list) else step
        nested = {} if isinstance(parent, dict) and key not in parent else parent[key]
        parent[key] = copy(nested)  # the value may belong to the event
        parent = parent[key]
    return parent, last


def _merge(change: Change, update: Update) -> None:
    """MongoDB accepts a name only once per update, so a value to set includes its later increments."""
    for name, value in update.set.items():
        change.set[name] = value
        change.add.pop(name, None)
        change.unset.pop(name, None)
    for name, amount in update.add.items():
        if name in change.unset:
            del change.unset[name]
            change.set[name] = amount
        elif name in change.set:
            change.set[name] += amount
        else:
            change.add[name] = change.add.get(name, 0) + amount
    for name in update.unset:
        change.set.pop(name, None)
        change.add.pop(name, None)
        change.unset[name] = None
