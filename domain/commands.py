"""The commands that a conversation takes. Ids and item bodies come from outside and are already validated.

The handlers in `commands/` and the replies in `replies/` make the commands. `decide` turns a command into events, or
refuses it.
"""

from msgspec import UNSET, Struct, UnsetType

from domain.conversation import KnownItem
from domain.events import (
    ContextPolicy,
    Fork,
    InheritedSummary,
    InputItem,
    Leaf,
    PathBranch,
    Share,
    Shown,
    Timing,
    Transcript,
    Usage,
    feedback_key,
)


class NewItem(Struct, frozen=True, kw_only=True):
    """An item to append. `item_id`: its new id. `item`: its body as JSON text in UTF-8. `copy_of`: as in ItemAppended."""

    item_id: str
    item: bytes
    copy_of: str | None = None


class Prefix(Struct, frozen=True, kw_only=True):
    """The beginning of a transcript, up to an item that the command appends.

    The log's table `transcript_prefixes` maps the hash of this beginning to the item.

    item_id      the item that the prefix ends with
    hash         of the prefix's normalized items; or of its answer, alone or with the item before it; or of the name that a client gave to the
                 conversation (`context/transcripts/prefix_hashes.py`)
    answered     whether one of the prefix's items is an answer of this store
    response_id  the response whose request or answer brought the item
    messages     how many messages of the transcript of `response_id` the prefix has. 0 if the prefix is not the beginning of this transcript, or if
                 `response_id` is None or is no chat completion
    exact        the exact hash of these messages; empty if there are none
    read_version the conversation's version when the transcript was compared with it. If an item was retracted or restored after this version,
                 the prefix is not recorded, because it may contain the item. None: the transcript was not compared with the conversation
    """

    item_id: str
    hash: bytes
    answered: bool
    response_id: str | None = None
    messages: int = 0
    exact: bytes = b""
    read_version: int | None = None


class Command(Struct, frozen=True, kw_only=True):
    """The base of all commands."""

    @property
    def row_keys(self) -> tuple[str, ...]:
        """The row keys of the items, responses and feedback whose state `decide` needs."""
        return ()


class StartConversation(Command, frozen=True, kw_only=True):
    """`listed`, `forked_from`, `family`, `pinned` and `summary`: see ConversationStarted. `family` None: the conversation starts a family of its own."""

    conversation_id: str
    tenant: str
    owner: str
    title: str | None = None
    instructions: str | None = None
    metadata: dict[str, str] = {}
    context_policy: ContextPolicy = ContextPolicy()
    listed: bool = True
    items: tuple[NewItem, ...] = ()
    forked_from: Fork | None = None
    family: str | None = None
    pinned: tuple[str, ...] = ()
    summary: InheritedSummary | None = None


class DescribeConversation(Command, frozen=True, kw_only=True):
    title: str | None | UnsetType = UNSET
    instructions: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    context_policy: ContextPolicy | UnsetType = UNSET


class WriteTitle(Command, frozen=True, kw_only=True):
    """Records a title that a model wrote. Refused if the conversation has a title.

    `title_items`: the items that the title was made from. `read_version`: the conversation's version when the last of
    these items was appended. Refused if an item was retracted or restored after this version.
    """

    title: str
    title_items: tuple[str, ...]
    model: str
    read_version: int
    usage: Usage | None = None
    cost: int | None = None


class AppendItems(Command, frozen=True, kw_only=True):
    items: tuple[NewItem, ...]
    author: str
    prefixes: tuple[Prefix, ...] = ()


class ReviseItem(Command, frozen=True, kw_only=True):
    """Another version of item `item_id`: `item` opens a branch after `leaf`, the place of the parent of `item_id`.

    The head moves to the new item. `inherited`: as in RetractItem.
    """

    item_id: str
    item: NewItem
    author: str
    leaf: Leaf
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class MoveHead(Command, frozen=True, kw_only=True):
    """The head becomes item `item_id`. `path`: the path that ends with it. `inherited`: as in RetractItem."""

    item_id: str
    path: tuple[PathBranch, ...]
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RetractItem(Command, frozen=True, kw_only=True):
    """`inherited`: the state of the item, if it belongs to a conversation that this one was forked from."""

    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RestoreItem(Command, frozen=True, kw_only=True):
    """Shows a retracted item again. `inherited`: as in RetractItem.

    `response_id`: the response that the item belongs to, if any. `unpins`: whether the newest event about pins
    still lists the item. If so, the item is unpinned too, because the retraction ended the pin.
    """

    item_id: str
    inherited: KnownItem | None = None
    response_id: str | None = None
    unpins: bool = False

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id, self.response_id) if self.response_id else (self.item_id,)


class PinItem(Command, frozen=True, kw_only=True):
    """`inherited`: as in RetractItem."""

    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class UnpinItem(Command, frozen=True, kw_only=True):
    """`inherited`: as in RetractItem."""

    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RequestReply(Command, frozen=True, kw_only=True):
    """`start`: create this conversation in the same transaction.

    `expected_head`: refused if the head is another item; UNSET: any head is accepted.

    `transcript`, `queued`, `after`, `regenerates`: as in ReplyRequested. `lists`: whether a conversation that is not listed
    is listed from now on. `retracts`: items to retract in the same append, if they are not retracted yet. They are not in
    `shown`. `alone`: refused if another reply will be appended after the same item as this one. `reuses`: ids of items of
    `input` that were in the input of an earlier reply too. Refused if one of these items has joined the conversation.
    """

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    shown: Shown
    start: StartConversation | None = None
    expected_head: str | None | UnsetType = UNSET
    transcript: Transcript | None = None
    lists: bool = False
    queued: bool = False
    retracts: tuple[str, ...] = ()
    after: Leaf | None = None
    alone: bool = False
    regenerates: str | None = None
    reuses: tuple[str, ...] = ()

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (*self.retracts, *self.reuses)


class QueueReply(Command, frozen=True, kw_only=True):
    """Records that a reply waits for its turn. The fields are as in ReplyQueued."""

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    renderer: int
    interrupts: bool = False


class ReadQueueState(Command, frozen=True, kw_only=True):
    """Changes nothing.

    The result has the conversation's current state in the log: which replies run, and which ones wait.
    """


class ShowReply(Command, frozen=True, kw_only=True):
    """Records that the request of a running reply is sent again with another context. `shown`, `reason`: as in ReplyShown."""

    response_id: str
    model: str
    shown: Shown
    reason: str


class CompleteReply(Command, frozen=True, kw_only=True):
    """`input` and `output` are appended at the head that the conversation has when the command is decided.

    If the reply has a leaf at that time (`RunningReply`), they open a branch after it.
    """

    response_id: str
    model: str
    author: str
    input: tuple[InputItem, ...]
    output: tuple[NewItem, ...]
    usage: Usage
    finish_reason: str
    timing: Timing
    delta_lengths: tuple[int, ...] = ()
    cost: int | None = None
    service_tier: str | None = None
    prefix_tokens: int = 0
    key_id: str | None = None
    prefixes: tuple[Prefix, ...] = ()


class FailReply(Command, frozen=True, kw_only=True):
    response_id: str
    code: str
    message: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()


class StopReply(Command, frozen=True, kw_only=True):
    """The fields of CancelReply and InterruptReply.

    If the conversation's policy keeps stopped replies, `input` is appended as by CompleteReply, with the items of `output`
    that may join (`reply_ends.joinable`). Nothing is appended if the reply was still waiting for its turn.
    """

    response_id: str
    author: str = ""
    input: tuple[InputItem, ...] = ()
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()
    prefixes: tuple[Prefix, ...] = ()


class CancelReply(StopReply, frozen=True, kw_only=True):
    pass


class InterruptReply(StopReply, frozen=True, kw_only=True):
    code: str


class DescribeReply(Command, frozen=True, kw_only=True):
    response_id: str
    metadata: dict[str, str]

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.response_id,)


class DeleteReply(Command, frozen=True, kw_only=True):
    """`item_ids`: the items that the reply added to its conversation, in order.

    In an unlisted conversation, the command is refused if the reply has added other items. This happens if the reply
    ended after its items were read.
    """

    response_id: str
    item_ids: tuple[str, ...] = ()

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.response_id, *self.item_ids)


class CompactContext(Command, frozen=True, kw_only=True):
    """`replaces`: the version of the active summary, which the new summary includes; 0 for none.

    Refused if another summary is active, or if item `last` is not on the active path.

    `withdrawn`: the versions of summaries that cover an item which was deleted elsewhere, for example in the origin of
    a fork. The new summary replaces these and does not include them. `read_version`: the conversation's version when
    the items were read. Refused if an item was retracted or restored after this version.
    """

    compaction_id: str
    summary: str
    first: str
    last: str
    depth: int
    count: int
    tokens_before: int
    tokens_after: int
    model: str
    read_version: int
    replaces: int = 0
    usage: Usage | None = None
    cost: int | None = None
    read_position: int = 0
    originals: tuple[str, ...] = ()
    branch: int = 0
    withdrawn: tuple[int, ...] = ()


class UndoCompaction(Command, frozen=True, kw_only=True):
    pass


class RedoCompaction(Command, frozen=True, kw_only=True):
    pass


class ShareConversation(Command, frozen=True, kw_only=True):
    """Adds the share, or changes the role of the share with the same subject."""

    share: Share


class UnshareConversation(Command, frozen=True, kw_only=True):
    """`subject` None: withdraws the share with everyone of the tenant."""

    subject: str | None


class ArchiveConversation(Command, frozen=True, kw_only=True):
    """`archived`: whether the conversation is archived from now on."""

    archived: bool


class WithdrawFeedback(Command, frozen=True, kw_only=True):
    """Withdraws the feedback that `by` gave to an item or a response."""

    by: str
    item_id: str | None = None
    response_id: str | None = None

    @property
    def target(self) -> str:
        """The id of the item or the response."""
        return self.item_id or self.response_id or ""

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.target, feedback_key(self.target, self.by))


class GiveFeedback(WithdrawFeedback, frozen=True, kw_only=True):
    """The fields are as in FeedbackGiven. `feedback_id`: the new id, used if the target has no feedback from `by`. `inherited`: as in RetractItem.

    `known_id`: the id of the feedback that `by` had given when the command was made; None if there was none.
    """

    feedback_id: str
    known_id: str | None = None
    rating: int
    labels: tuple[str, ...] = ()
    comment: str | None = None
    inherited: KnownItem | None = None


class EndConversation(Command, frozen=True, kw_only=True):
    reason: str | None = None


class ReopenConversation(Command, frozen=True, kw_only=True):
    pass


class DeleteConversation(Command, frozen=True, kw_only=True):
    pass
