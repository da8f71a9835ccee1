"""Many writes to few documents become few writes: what a batch comes to, for each view. Pure; the Mongo writer applies it.

`Tally` takes writes in order. What it holds is to be applied in this order: updates, removals, inserts, sums. An update of a
document that the same batch inserts goes into the document; a document that the batch removes again is never inserted.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from msgspec import Struct, field

from projections.views.catalog import MongoView
from projections.views.writes import Add, Document, Insert, Remove, Update, Write


class Change(Struct):
    """What becomes of one document that was there before the batch: `set` to values, then `add` to numbers."""

    set: Document = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)


class Sum(Struct):
    """What is added to one document, up to `position`; it begins as `document` where there is none."""

    document: Document
    add: dict[str, int]
    position: int


class Tally(Struct):
    """The writes of a batch to one view."""

    updates: dict[str, Change] = field(default_factory=dict)
    removed: dict[tuple[str, str], None] = field(default_factory=dict)
    inserts: dict[str, Document] = field(default_factory=dict)
    sums: dict[str, Sum] = field(default_factory=dict)
    _of_conversation: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def take(self, write: Write) -> None:
        """Adds the next write."""
        match write:
            case Insert():
                if write.key in self.inserts:
                    raise ValueError(f"A document of {write.view} was inserted twice in one batch")
                self.inserts[write.key] = document = dict(write.document)
                self._of_conversation[conversation_of(document)].add(write.key)
            case Update():
                if (inserted := self.inserts.get(write.key)) is not None:
                    apply_to(inserted, write)
                else:
                    _merge(self.updates.setdefault(write.key, Change()), write)
            case Add():
                if (known := self.sums.get(write.key)) is None:
                    self.sums[write.key] = Sum(write.document, dict(write.add), write.position)
                else:
                    known.add = {name: known.add[name] + amount for name, amount in write.add.items()}
                    known.position = write.position
            case Remove():
                conversation = (write.tenant, write.conversation_id)
                self.removed[conversation] = None
                for key in self._of_conversation.pop(conversation, ()):
                    del self.inserts[key]


def coalesce(writes: Iterable[Write]) -> dict[MongoView, Tally]:
    """The tallies of the views that are written to."""
    tallies: dict[MongoView, Tally] = {}
    for write in writes:
        if (tally := tallies.get(write.view)) is None:
            tally = tallies[write.view] = Tally()
        tally.take(write)
    return tallies


def conversation_of(document: Document) -> tuple[str, str]:
    """(tenant, conversation id) of a document of any view; of one that is of no conversation, an empty id."""
    return document["tenant"], document.get("conversation_id") or document.get("id", "")


def apply_to(document: Document, update: Update) -> None:
    """Changes a document as MongoDB's `$set` and `$inc` would; a dot in a name leads into an object."""
    for name, value in update.set.items():
        holder, last = _holder(document, name)
        holder[last] = value
    for name, amount in update.add.items():
        holder, last = _holder(document, name)
        holder[last] = holder.get(last, 0) + amount


def _holder(document: Document, name: str) -> tuple[dict[str, Any], str]:
    if "." not in name:
        return document, name
    *path, last = name.split(".")
    for step in path:
        # A copy: the object may be the event's own.
        document[step] = dict(document.get(step, {}))
        document = document[step]
    return document, last


def _merge(change: Change, update: Update) -> None:
    """MongoDB takes a name once in one update: what is added to a value that was set goes into that value."""
    for name, value in update.set.items():
        change.set[name] = value
        change.add.pop(name, None)
    for name, amount in update.add.items():
        if name in change.set:
            change.set[name] += amount
        else:
            change.add[name] = change.add.get(name, 0) + amount
