"""The commands that a conversation takes. Their ids and item bodies are already validated."""

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
    """An item that a command appends. `item`: JSON text in UTF-8. `copy_of`: as in ItemAppended."""

    item_id: str
    item: bytes
    copy_of: str | None = None


class Prefix(Struct, frozen=True, kw_only=True):
    """The beginning of a transcript, up to item `item_id`.

    hash         a hash of the prefix, of its answer, or of the conversation's name
                 (`context/transcripts/prefix_hashes.py`)
    answered     whether the prefix has an answer of this store
    response_id  the response whose request or answer brought the item
    messages     how many messages of the response's transcript the prefix has, or 0 if the transcript does not begin
                 with the prefix
    exact        the exact hash of these messages
    read_version when the transcript was compared with the conversation. If an item was retracted or restored later, the
                 prefix is not recorded, because the prefix may contain this item
    """

    item_id: str
    hash: bytes
    answered: bool
    response_id: str | None = None
    messages: int = 0
    exact: bytes = b""
    read_version: int | None = None


class Command(Struct, frozen=True, kw_only=True):
    @property
    def row_keys(self) -> tuple[str, ...]:
        """The items, responses and feedback whose state `decide` needs."""
        return ()


class StartConversation(Command, frozen=True, kw_only=True):
    """The fields are as in ConversationStarted. `family` None: the conversation begins a new family."""

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
    """Sets a title that a model wrote.

    `read_version`: the conversation's version when the last of `title_items` was appended.
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
    """Opens a branch with another version of item `item_id`. `leaf`: the place of the item's parent."""

    item_id: str
    item: NewItem
    author: str
    leaf: Leaf
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class MoveHead(Command, frozen=True, kw_only=True):
    """Makes item `item_id` the head. `path` ends with this item."""

    item_id: str
    path: tuple[PathBranch, ...]
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RetractItem(Command, frozen=True, kw_only=True):
    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RestoreItem(Command, frozen=True, kw_only=True):
    """Undoes the retraction of an item. If the item was pinned, it is not pinned again."""

    item_id: str
    inherited: KnownItem | None = None
    response_id: str | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id, self.response_id) if self.response_id else (self.item_id,)


class PinItem(Command, frozen=True, kw_only=True):
    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class UnpinItem(Command, frozen=True, kw_only=True):
    item_id: str
    inherited: KnownItem | None = None

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.item_id,)


class RequestReply(Command, frozen=True, kw_only=True):
    """Starts a reply. Fields that are not listed here are as in ReplyRequested.

    start          a conversation to create in the same transaction
    expected_head  refused if the head is another item; UNSET: any head
    lists          lists the conversation from now on
    retracts       items to retract in the same append
    alone          refused if another reply will be appended after the same item
    reuses         items of `input` that an earlier reply had too. Refused if one of these items has joined
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
    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    renderer: int
    interrupts: bool = False


class ReadQueueState(Command, frozen=True, kw_only=True):
    """Changes nothing. The result has the conversation's current state."""


class ShowReply(Command, frozen=True, kw_only=True):
    """Records that the request of a running reply is sent again, with another context."""

    response_id: str
    model: str
    shown: Shown
    reason: str


class CompleteReply(Command, frozen=True, kw_only=True):
    """Appends `input` and `output` at the head, or on a branch if the reply has a leaf."""

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
    """Items join only if the conversation's policy keeps stopped replies."""

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
    """`item_ids`: the items that the reply added, in order.

    Refused in an unlisted conversation if the reply has added other items.
    """

    response_id: str
    item_ids: tuple[str, ...] = ()

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.response_id, *self.item_ids)


class CompactContext(Command, frozen=True, kw_only=True):
    """Refused if `last` is not on the active path.

    replaces      the version of the active summary, which the new summary includes, or 0 if no summary is active
    read_version  when the items were read. Refused if an item was retracted or restored later, or if a summary was
                  made, undone or redone later
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


class UndoCompaction(Command, frozen=True, kw_only=True):
    """Undoes the summary `undone`. 0: there is none to undo. `active`: the version of the summary that is active then.

    `read_version`: when these summaries were read. Refused if an item was retracted or restored, a summary was changed,
    or the head was moved later.
    """

    undone: int
    active: int
    read_version: int


class RedoCompaction(Command, frozen=True, kw_only=True):
    """Makes the summary `active` active again. 0: there is none to redo. `read_version`: as in UndoCompaction."""

    active: int
    read_version: int


class ShareConversation(Command, frozen=True, kw_only=True):
    share: Share


class UnshareConversation(Command, frozen=True, kw_only=True):
    """`subject` None: everyone of the tenant."""

    subject: str | None


class ArchiveConversation(Command, frozen=True, kw_only=True):
    archived: bool


class WithdrawFeedback(Command, frozen=True, kw_only=True):
    by: str
    item_id: str | None = None
    response_id: str | None = None

    @property
    def target(self) -> str:
        return self.item_id or self.response_id or ""

    @property
    def row_keys(self) -> tuple[str, ...]:
        return (self.target, feedback_key(self.target, self.by))


class GiveFeedback(WithdrawFeedback, frozen=True, kw_only=True):
    """`feedback_id`: a new id, for the first feedback of `by` to the target.

    `known_id`: the id of the feedback that `by` gave before this command, or None.
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
