"""The changes that a batch of events makes to the context snapshots, as arguments of `context/write_snapshot.lua`."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET, Struct

from context.conversation_settings import inherits
from context.last_requests import opens_branch, sent_request
from context.snapshot_store import write_arguments
from context.snapshots import (
    SNAPSHOT_FORMAT,
    LastRequest,
    SnapshotItem,
    SnapshotSettings,
    encode_settings,
    request_fields,
    snapshot_keys,
)
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDescribed,
    ConversationStarted,
    HeadMoved,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
)
from infrastructure.event_log.incarnation import StreamVersion
from infrastructure.event_log.recorded import Logged
from projections.views.event_writes import is_deletion


class SnapshotChange(Struct):
    """What a batch changes in the snapshot of one conversation.

    `before`: the version that the batch follows. `needs_refill`: the snapshot must be made again from the log.
    """

    tenant: str
    conversation_id: str
    before: int
    version: int = 0
    chain_hash: str = ""
    incarnation: str = ""
    started: ConversationStarted | None = None
    appended: list[ItemAppended] = []
    last_requests: dict[str, LastRequest] = {}
    deleted: bool = False
    moved: bool = False
    needs_refill: bool = False

    @property
    def keys(self) -> tuple[str, str]:
        return snapshot_keys(self.tenant, self.conversation_id)

    @property
    def stream_version(self) -> StreamVersion:
        return StreamVersion(self.version, self.chain_hash, self.incarnation)

    def add(self, logged: Logged) -> None:
        """Raises UnreadableEvent."""
        self.version, self.chain_hash, self.incarnation = logged.version, logged.chain_hash, logged.incarnation
        if is_deletion(logged):
            self.deleted = True
            return
        event = logged.event
        if (request := sent_request(event)) is not None and not opens_branch(event):
            model, sequence = request
            self.last_requests[model] = LastRequest(logged.version, sequence)
        match event:
            case ConversationStarted():
                self.started = event
            case ConversationDescribed(instructions=instructions, context_policy=policy):
                self.needs_refill |= instructions is not UNSET or policy is not UNSET
            case ItemAppended() if event.aside:
                pass
            case ItemAppended():
                self.moved |= bool(self.appended) and event.branch != self.appended[-1].branch
                self.appended.append(event)
            case HeadMoved():
                self.moved = True
            case (
                ItemRetracted()
                | ItemRestored()
                | ItemPinned()
                | ItemUnpinned()
                | ContextCompacted()
                | CompactionUndone()
                | CompactionRedone()
            ):
                self.needs_refill = True
            case _:
                pass

    def script_arguments(self, items: Iterable[SnapshotItem]) -> list[str | int | bytes]:
        """The arguments of the script. `items`: the items of `appended`, with their token counts."""
        fields: dict[str, str | int] = {
            "version": self.version,
            "chain_hash": self.chain_hash,
            "incarnation": self.incarnation,
            "format": SNAPSHOT_FORMAT,
            **request_fields(self.last_requests),
        }
        if (started := self.started) is not None:
            fork = started.forked_from
            settings = SnapshotSettings(
                instructions=started.instructions, policy=started.context_policy, needs_log=inherits(started)
            )
            fields |= {"settings": encode_settings(settings), "branch": 0, "depth": fork.depth if fork else 0}
        if self.appended:
            fields |= {"branch": self.appended[-1].branch, "depth": self.appended[-1].depth}
        return write_arguments(
            self.before,
            fields,
            [msgspec.json.encode(item) for item in items],
            branch=self.appended[-1].branch if self.appended else "",
        )


def snapshot_changes(batch: Sequence[Logged]) -> list[SnapshotChange]:
    """One change for each conversation. Raises UnreadableEvent."""
    changes: dict[tuple[str, str], SnapshotChange] = {}
    for logged in batch:
        conversation = (logged.tenant, logged.conversation_id)
        if (change := changes.get(conversation)) is None:
            change = changes[conversation] = SnapshotChange(*conversation, before=logged.version - 1)
        change.add(logged)
    return list(changes.values())
