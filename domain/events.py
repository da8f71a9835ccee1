"""What happened to a conversation. Frozen names, frozen topics: a test holds every byte of them still.

An event's place in its stream, its time and who caused it are columns of the stored row (design: section 3), not fields.
Anything may import this module. `item` fields hold the item as it was sent, as JSON text in UTF-8.
"""

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType


class ContextPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How much of a conversation a model is shown: `budget` and `reserve` (for the answer) in tokens; None asks the model's window.

    `newest_turns` forgets what no longer fits, `rolling_summary` has a model write a summary of it.
    """

    strategy: Literal["newest_turns", "rolling_summary"] = "newest_turns"
    budget: int | None = None
    reserve: int | None = None


class Fork(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a fork left its origin: below this item, of this depth (0: before the first), as the origin was at `version`."""

    conversation_id: str
    item_id: str
    version: int
    depth: int = 0


class InputItem(Struct, frozen=True, kw_only=True):
    """An item that is kept with a reply: what it was asked with joins the conversation when the reply completes."""

    item_id: str
    item: bytes


class ShownRange(Struct, frozen=True, kw_only=True):
    """Consecutive items of the path that a model was shown, both ends included, retracted ones left out."""

    first: str
    last: str
    count: int
    tokens: int


class LeftOut(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Items of the path that a model was not shown, and why. `first` and `count` are None where nobody read back to the first."""

    reason: str
    first: str | None = None
    last: str | None = None
    count: int | None = None


class Shown(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model was shown: enough to render the request's body again from the log.

    `version` is the conversation's version the ranges were read at, `request_sha256` the SHA-256 of the body that was sent;
    `summary` the id of the compaction whose summary stood before them.
    """

    version: int
    ranges: tuple[ShownRange, ...]
    budget: int
    tokens: int
    encoding: str
    renderer: int
    request_sha256: bytes
    summary: str | None = None
    left_out: tuple[LeftOut, ...] = ()


class Usage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tokens as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Timing(Struct, frozen=True, kw_only=True):
    """Milliseconds from asking the provider to its first piece and to its last."""

    first_ms: int
    total_ms: int


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every event has: a topic that never changes, and `row_id`, the id its stored row is indexed by."""

    topic: ClassVar[str]

    @property
    def row_key(self) -> str | None:
        """The item (or response) the event names, for the row's indexed column."""
        return None


DESCRIPTION = "description"
"""What the rows are indexed by that say how a conversation is described, so that a long one need not be read for them.

Its first row, and changes that were written before those below had names of their own.
"""

INSTRUCTIONS = "instructions"
POLICY = "policy"
INSTRUCTIONS_AND_POLICY = "instructions and policy"
"""What a change of these is indexed by: the last of each says all. One of a title or of metadata is nothing to a model."""

PINS = "pins"
"""What the rows are indexed by that say which items are pinned; the last of them says all."""

SUMMARY = "summary"
"""What the rows are indexed by that say which summary stands; the last of them says which."""


class ConversationStarted(Event, frozen=True, kw_only=True):
    topic = "conversation.started"

    conversation_id: str
    tenant: str
    owner: str
    family: str
    title: str | None = None
    instructions: str | None = None
    metadata: dict[str, str] = {}
    context_policy: ContextPolicy = ContextPolicy()
    listed: bool = True
    forked_from: Fork | None = None

    @property
    def row_key(self) -> str:
        return DESCRIPTION


class ConversationDescribed(Event, frozen=True, kw_only=True):
    """What is UNSET stays as it was."""

    topic = "conversation.described"

    title: str | None | UnsetType = UNSET
    instructions: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    context_policy: ContextPolicy | UnsetType = UNSET

    @property
    def row_key(self) -> str | None:
        if self.context_policy is UNSET:
            return None if self.instructions is UNSET else INSTRUCTIONS
        return POLICY if self.instructions is UNSET else INSTRUCTIONS_AND_POLICY


class ItemAppended(Event, frozen=True, kw_only=True):
    """The only door by which an item enters. `depth` is 1 for the first item of the path, its parent's + 1 for any other."""

    topic = "item.appended"

    item_id: str
    parent_id: str | None
    branch: int
    depth: int
    item: bytes
    author: str
    revises: str | None = None
    response_id: str | None = None

    @property
    def row_key(self) -> str:
        return self.item_id


class ItemRetracted(Event, frozen=True, kw_only=True):
    topic = "item.retracted"

    item_id: str
    branch: int
    depth: int

    @property
    def row_key(self) -> str:
        return self.item_id


class ItemPinned(Event, frozen=True, kw_only=True):
    """A model is shown the item whatever else fits. `pinned`: all that are pinned now, this one last."""

    topic = "item.pinned"

    item_id: str
    branch: int
    depth: int
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ItemUnpinned(Event, frozen=True, kw_only=True):
    """`pinned`: those that still are."""

    topic = "item.unpinned"

    item_id: str
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ReplyRequested(Event, frozen=True, kw_only=True):
    """`parameters` is the JSON text of what the caller set; the input's items are not in the conversation yet."""

    topic = "reply.requested"

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    shown: Shown

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyCompleted(Event, frozen=True, kw_only=True):
    """Appended together with an ItemAppended for each of its items.

    `delta_lengths`: characters in each streamed piece, of one item after the other. `cost`: billionths of a US dollar, None
    where the model's price is not known.
    """

    topic = "reply.completed"

    response_id: str
    model: str
    input_ids: tuple[str, ...]
    output_ids: tuple[str, ...]
    usage: Usage
    finish_reason: str
    timing: Timing
    delta_lengths: tuple[int, ...] = ()
    cost: int | None = None

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyFailed(Event, frozen=True, kw_only=True):
    """No item joins the conversation; `output` is what had arrived, the last item perhaps a part of one.

    `code` and `message` are ours, free of content. `partial_output` was its text, before `output` was kept.
    """

    topic = "reply.failed"

    response_id: str
    code: str
    message: str
    partial_output: str = ""
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyCancelled(Event, frozen=True, kw_only=True):
    """Somebody stopped it. No item joins the conversation; `output` is what had arrived."""

    topic = "reply.cancelled"

    response_id: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyInterrupted(Event, frozen=True, kw_only=True):
    """The process that ran it, or the client that waited for it, went away. `output` is what had arrived, as far as it is known."""

    topic = "reply.interrupted"

    response_id: str
    code: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyDeleted(Event, frozen=True, kw_only=True):
    """The response can no longer be asked for. The items that joined the conversation stay."""

    topic = "reply.deleted"

    response_id: str

    @property
    def row_key(self) -> str:
        return self.response_id


class ContextCompacted(Event, frozen=True, kw_only=True):
    """A model is shown `summary` instead of the `count` items from `first` to `last`, which stay readable.

    `first` is the path's first item, `depth` that of `last`; `replaces` the version of the summary that this one took in, 0 for
    none. Tokens of what it stands for, and of itself; `usage` and `cost` are what the model's calls for it came to, the cost in
    billionths of a US dollar, None where that is not known.
    """

    topic = "context.compacted"

    compaction_id: str
    summary: str
    first: str
    last: str
    depth: int
    count: int
    tokens_before: int
    tokens_after: int
    model: str
    replaces: int = 0
    usage: Usage | None = None
    cost: int | None = None

    @property
    def row_key(self) -> str:
        return SUMMARY


class CompactionUndone(Event, frozen=True, kw_only=True):
    """`active`: the version of the ContextCompacted that stands now, 0 for none."""

    topic = "context.compaction_undone"

    active: int

    @property
    def row_key(self) -> str:
        return SUMMARY


class CompactionRedone(Event, frozen=True, kw_only=True):
    """`active`: the version of the ContextCompacted that stands again."""

    topic = "context.compaction_redone"

    active: int

    @property
    def row_key(self) -> str:
        return SUMMARY


class ConversationEnded(Event, frozen=True, kw_only=True):
    topic = "conversation.ended"

    reason: str | None = None


class ConversationReopened(Event, frozen=True, kw_only=True):
    topic = "conversation.reopened"


class ConversationDeleted(Event, frozen=True, kw_only=True):
    topic = "conversation.deleted"


EVENTS: tuple[type[Event], ...] = (
    ConversationStarted,
    ConversationDescribed,
    ItemAppended,
    ItemRetracted,
    ItemPinned,
    ItemUnpinned,
    ReplyRequested,
    ReplyCompleted,
    ReplyFailed,
    ReplyCancelled,
    ReplyInterrupted,
    ReplyDeleted,
    ContextCompacted,
    CompactionUndone,
    CompactionRedone,
    ConversationEnded,
    ConversationReopened,
    ConversationDeleted,
)
REPLY_ENDS = (ReplyCompleted, ReplyFailed, ReplyCancelled, ReplyInterrupted)
ReplyEnd = ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyInterrupted
"""How a reply ends: exactly one of these follows its ReplyRequested."""

BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
