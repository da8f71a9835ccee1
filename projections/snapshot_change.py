"""The changes that a batch of events makes to the context snapshots, as arguments of `change_snapshot.lua`."""

import functools
from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from context.conversation_settings import counted_summary
from context.snapshots import (
    BLOCK_DEPTHS,
    MAX_BYTES,
    MAX_ITEMS,
    PIN_PREFIX,
    SNAPSHOT_FORMAT,
    SNAPSHOT_TTL_SECONDS,
    SnapshotItem,
    snapshot_key,
)
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDescribed,
    ConversationStarted,
    ItemAppended,
    ItemPinned,
    ItemRetracted,
    ItemUnpinned,
)
from infrastructure.event_log.recorded import Logged
from projections.views.event_writes import is_deletion


@functools.cache
def change_script() -> str:
    return resources.files(__package__).joinpath("change_snapshot.lua").read_text()


@functools.cache
def change_script_sha1() -> str:
    return sha1(change_script().encode(), usedforsecurity=False).hexdigest()


class SnapshotChange(Struct):
    """The changes that a batch makes to one conversation's snapshot.

    `needs_refill`: the snapshot must be made from the log, because the batch alone does not say how the snapshot changes.
    """

    tenant: str
    conversation_id: str
    before: int
    version: int = 0
    branch: int | None = None
    fields: dict[str, str | int] = {}
    removed_fields: dict[str, None] = {}
    retracted: dict[str, tuple[int, int]] = {}
    appended: dict[str, ItemAppended] = {}
    incarnation: str = ""
    deleted: bool = False
    needs_refill: bool = False
    compaction: tuple[int, ContextCompacted] | None = None

    @property
    def key(self) -> str:
        return snapshot_key(self.tenant, self.conversation_id)

    def add(self, logged: Logged) -> None:
        """Adds the next event of the conversation. Raises UnreadableEvent."""
        self.version, self.incarnation = logged.version, logged.incarnation
        self.fields |= {"chain_hash": logged.chain_hash, "incarnation": logged.incarnation}
        if is_deletion(logged):
            self.deleted = True
            return
        event = logged.event
        match event:
            case ConversationStarted():
                self.fields |= {"branch": 0, "depth": 0, "policy": msgspec.json.encode(event.context_policy).decode()}
                self._set("instructions", event.instructions)
                if (fork := event.forked_from) is not None:
                    self.fields |= {"depth": fork.depth, "first": fork.depth + 1, "head": fork.item_id, "fork": "1"}
            case ConversationDescribed():
                if event.instructions is not UNSET:
                    self._set("instructions", event.instructions)
                if event.context_policy is not UNSET:
                    self.fields["policy"] = msgspec.json.encode(event.context_policy).decode()
            case ItemAppended():
                self.needs_refill = self.needs_refill or self.branch not in (None, event.branch)
                self.branch = event.branch
                self.appended[event.item_id] = event
                self.fields |= {"branch": event.branch, "depth": event.depth, "head": event.item_id}
            case ItemRetracted():
                if self.appended.pop(event.item_id, None) is None:
                    self.retracted[event.item_id] = event.branch, event.depth
                self.removed_fields[f"{PIN_PREFIX}{event.item_id}"] = None
                if self.compaction is not None and event.depth <= self.compaction[1].depth:
                    self.needs_refill = True  # the summary is withdrawn
            case ItemPinned() | ItemUnpinned() | CompactionUndone() | CompactionRedone():
                self.needs_refill = True
            case ContextCompacted():
                self.compaction = self.version, event
            case _:
                pass

    def _set(self, name: str, value: str | None) -> None:
        if value is None:
            self.fields.pop(name, None)
            self.removed_fields[name] = None
        else:
            self.removed_fields.pop(name, None)
            self.fields[name] = value

    async def script_argument(self, items: Iterable[SnapshotItem]) -> bytes:
        """The argument of `change_snapshot.lua`. `items`: the items of `appended`, in order, with their token counts."""
        fields = {**self.fields, "made": SNAPSHOT_FORMAT}
        if (summary := await counted_summary(self.compaction)) is not None:
            fields["summary"] = msgspec.json.encode(summary).decode()
        argument: dict[str, Any] = {
            "before": self.before,
            "after": self.version,
            "fields": fields,
            "removed_fields": list(self.removed_fields),
            "retracted": [number for branch_and_depth in self.retracted.values() for number in branch_and_depth],
            "items": [
                value for item in items for value in (item.depth, item.tokens, msgspec.json.encode(item).decode())
            ],
            "block_depths": BLOCK_DEPTHS,
            "max_items": MAX_ITEMS,
            "max_bytes": MAX_BYTES,
            "seconds": SNAPSHOT_TTL_SECONDS,
        }
        if self.branch is not None:
            argument["branch"] = self.branch
        return msgspec.msgpack.encode(argument)


def snapshot_changes(batch: Sequence[Logged]) -> list[SnapshotChange]:
    """The changes of a batch, one for each conversation. Raises UnreadableEvent."""
    changes: dict[tuple[str, str], SnapshotChange] = {}
    for logged in batch:
        conversation = (logged.tenant, logged.conversation_id)
        if (change := changes.get(conversation)) is None:
            change = changes[conversation] = SnapshotChange(*conversation, before=logged.version - 1)
        change.add(logged)
    return list(changes.values())
