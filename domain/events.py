"""Every event of a conversation. Topics and field names are frozen: a test compares stored bytes.

A field `item` holds an item as JSON text in UTF-8. An `id` inside this text is the client's, or that of the item that was copied. `item_id` is ours.
"""

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType


class ContextPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model is shown of a conversation, and what becomes of a reply that is stopped.

    budget   tokens that may be sent; None: what the model's window allows
    reserve  tokens kept free for the answer if the request has no `max_output_tokens`; None: 1,024, or half of the window if that is less
    window   where the shown turns begin. `newest`: as early as the budget allows. `stable`: where the turns of the last
             request began, while they fit
    refill   how much of the budget a request fills after the stable window has moved; 0.1 to 0.9
    stopped  whether the question and partial answer of a stopped reply join the conversation
    """

    strategy: Literal["newest_turns", "rolling_summary"] = "newest_turns"
    budget: int | None = None
    reserve: int | None = None
    window: Literal["stable", "newest"] = "stable"
    refill: float = 0.6
    stopped: Literal["drop", "keep"] = "drop"
    on_disconnect: Literal["stop", "finish"] = "stop"


class PathBranch(Struct, frozen=True, array_like=True, gc=False):
    """A branch that a path takes, and where the path leaves it (`domain/paths.py`).

    branch        the version of the ItemAppended that opened the branch; 0 for the first one
    last_depth    the depth of the path's last item on the branch; None: the path follows the branch to its end
    last_version  the version of this last item, or a higher one
    """

    branch: int
    last_depth: int | None = None
    last_version: int | None = None


class Leaf(Struct, frozen=True, array_like=True):
    """The item after which others are appended. `path` ends with this item. `item_id` None and depth 0: before the first item.

    In a fork, inherited items count as items of branch 0.
    """

    item_id: str | None
    depth: int
    path: tuple[PathBranch, ...]


class Fork(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A fork begins after item `item_id` of its origin, as the origin was at `version`. `item_id` None: before the
    first item.

    `branches`: the origin's path up to the item; may be empty if the path has only the first branch.
    """

    conversation_id: str
    item_id: str | None
    version: int
    depth: int = 0
    branches: tuple[PathBranch, ...] = ()


class InheritedSummary(Struct, frozen=True, kw_only=True):
    """The ContextCompacted of another conversation whose summary a fork takes over."""

    conversation_id: str
    version: int


class InputItem(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An item in an event of a reply. It has not joined the conversation. `copy_of`: as in ItemAppended."""

    item_id: str
    item: bytes
    copy_of: str | None = None


class ShownRange(Struct, frozen=True, kw_only=True):
    """Consecutive items of the path that a model was shown, without retracted ones."""

    first: str
    last: str
    count: int
    tokens: int


class LeftOut(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Items that a model was not shown, or not in full.

    `reason` "budget": the items did not fit. If the path was not read to its start, there is no `first`, and `count`
    includes deleted items. "deleted": a fork inherited the items from a deleted conversation.
    """

    reason: str
    first: str | None = None
    last: str | None = None
    count: int | None = None


class SequencePoint(Struct, frozen=True, array_like=True):
    """The beginning of a request: its tools and its first `length` parts. The first part is the body's `instructions`
    (null if there are none). The others are the body's messages or input items.

    `tokens`: the tokens of the tools, the answer format and these parts. `sha256`: the first 8 bytes of the hash of these parts.
    """

    length: int
    tokens: int
    sha256: bytes


class SentSequence(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the next request to the same model is compared with (`context/sent_sequence.py`).

    depth        the depth of the path's last item
    first_depth  where the window began. If the window has the whole path: the first depth after the summary, or 1. If the window is empty: `depth` + 1
    settings     the first 4 bytes of the SHA-256 of each setting that a prompt cache depends on
    summary      the first 8 bytes of the SHA-256 of the summary's compaction id
    points       sorted by length. The last point is the whole request
    """

    depth: int
    first_depth: int
    settings: bytes
    points: tuple[SequencePoint, ...]
    summary: bytes = b""


class SharedPrefix(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The beginning that a request shares with the last request to the same model on the path.

    `messages`: how many messages or input items of the body are in this beginning.
    `reason`: why the beginning is not the whole last request, or why there was no last request. The words are from
    `prompt_cache_diagnostics` in the official API.
    """

    tokens: int
    messages: int
    reason: str | None = None


class Shown(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model was shown: enough to render the body of the request again from the log.

    version         the conversation's version when the ranges were read
    request_sha256  the SHA-256 of the body that was sent
    summary         the compaction whose summary was sent before the items
    notes           abilities that the model was assumed to lack. Notes replaced the content that needs them
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
    sequence: SentSequence | None = None
    shared_prefix: SharedPrefix | None = None
    notes: tuple[str, ...] = ()


class TranscriptBase(Struct, frozen=True, kw_only=True):
    """The first `count` messages of an earlier request's transcript."""

    conversation_id: str
    response_id: str
    count: int


class TranscriptPart(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Messages of a transcript: either those that `items` make, or `message`, a JSON text.

    changes  how the message that was sent differs from what the items make (`context/transcripts/message_changes.py`)
    """

    items: tuple[str, ...] = ()
    changes: bytes | None = None
    message: bytes | None = None


class Transcript(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The messages of a Chat Completions request: enough to render them again exactly.

    instructions  the leading system and developer messages, as JSON texts. They are not items
    base          the messages of an earlier request that come next
    """

    instructions: tuple[bytes, ...] = ()
    base: TranscriptBase | None = None
    parts: tuple[TranscriptPart, ...] = ()


class Usage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tokens, as counted by the provider. Cached and cache-write tokens are input tokens; reasoning tokens are output tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0


class Timing(Struct, frozen=True, kw_only=True):
    """Milliseconds from the request to the first and to the last part of the answer."""

    first_ms: int
    total_ms: int


class Share(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`subject` None: everyone of the tenant. A writer may also read."""

    role: Literal["reader", "writer"]
    subject: str | None = None


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A topic never changes."""

    topic: ClassVar[str]

    @property
    def row_key(self) -> str | None:
        """The row's index key (column `item_id`): the id of an item or response, a `feedback_key`, or a word below."""
        return None


# Row keys of changes. These few rows are found without reading the stream.

DESCRIPTION = "description"
"""The stream's first row, and ConversationDescribed rows of older code."""

INSTRUCTIONS = "instructions"
POLICY = "policy"
INSTRUCTIONS_AND_POLICY = "instructions and policy"
"""The last row that changes the instructions or the policy holds the current ones."""

PINS = "pins"
"""The last row holds all pinned items; some may have been retracted later."""

SUMMARY = "summary"
"""`context/summary_changes.py` finds in these rows which summary is active."""

SHARES = "shares"
"""The last row holds all shares."""

HEAD = "head"
"""The last row holds the active path. Without such a row, the first branch is the active path."""


class ConversationStarted(Event, frozen=True, kw_only=True):
    """`listed`: whether lists of conversations include it. `pinned`, `summary`: what a fork inherits.

    `family`: the first conversation in its chain of forks.
    """

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
    pinned: tuple[str, ...] = ()
    summary: InheritedSummary | None = None

    @property
    def row_key(self) -> str:
        return DESCRIPTION


class ConversationDescribed(Event, frozen=True, kw_only=True):
    """A setting changed, or the conversation was archived or unarchived. UNSET: no change.

    The fields after `title_by` are set only if a model wrote the title.
    """

    topic = "conversation.described"

    title: str | None | UnsetType = UNSET
    instructions: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    context_policy: ContextPolicy | UnsetType = UNSET
    listed: bool | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    title_by: Literal["person", "model"] = "person"
    title_items: tuple[str, ...] = ()
    model: str | None = None
    usage: Usage | None = None
    cost: int | None = None

    @property
    def row_key(self) -> str | None:
        if self.context_policy is UNSET:
            return None if self.instructions is UNSET else INSTRUCTIONS
        return POLICY if self.instructions is UNSET else INSTRUCTIONS_AND_POLICY


class ItemAppended(Event, frozen=True, kw_only=True):
    """An item joined the conversation. `depth`: 1 for the first item of the path.

    branch   an item that opens a branch has its own version here
    leaves   for an item that opens a branch: the path up to its parent
    revises  the item that this one is another version of
    aside    the item is not on the active path, and the head stays
    copy_of  the first original, if this is a copy. A copy is deleted with its original. `<response id>/<item id>` if the original
             did not join a conversation; then the copy is also deleted with that response
    """

    topic = "item.appended"

    item_id: str
    parent_id: str | None
    branch: int
    depth: int
    item: bytes
    author: str
    revises: str | None = None
    response_id: str | None = None
    copy_of: str | None = None
    leaves: tuple[PathBranch, ...] = ()
    aside: bool = False

    @property
    def row_key(self) -> str:
        return self.item_id


class HeadMoved(Event, frozen=True, kw_only=True):
    """The head is item `item_id`, and the active path is `path`.

    Follows each item that opens a branch and is not `aside`. If a client moved the head, the path ends with the item.
    A HeadMoved that is appended together with an `aside` item names the head that the conversation has already.
    """

    topic = "head.moved"

    item_id: str
    depth: int
    path: tuple[PathBranch, ...]

    @property
    def row_key(self) -> str:
        return HEAD


class ItemRetracted(Event, frozen=True, kw_only=True):
    """Every summary that covers the item is withdrawn for good.

    `inherited`: the item belongs to a conversation that this one comes from, and stays there.
    """

    topic = "item.retracted"

    item_id: str
    branch: int
    depth: int
    inherited: bool = False

    @property
    def row_key(self) -> str:
        return self.item_id


class ItemRestored(Event, frozen=True, kw_only=True):
    """Pins and summaries that the deletion ended do not come back. Summaries made without the item are withdrawn."""

    topic = "item.restored"

    item_id: str
    branch: int
    depth: int
    inherited: bool = False

    @property
    def row_key(self) -> str:
        return self.item_id


class ItemPinned(Event, frozen=True, kw_only=True):
    """The item is shown even if its turn no longer fits. `pinned`: all pinned items, this one last."""

    topic = "item.pinned"

    item_id: str
    branch: int
    depth: int
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ItemUnpinned(Event, frozen=True, kw_only=True):
    """`pinned`: the items that remain pinned."""

    topic = "item.unpinned"

    item_id: str
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ReplyQueued(Event, frozen=True, kw_only=True):
    """A reply waits for its turn. The row's subject requested it.

    `renderer`: the renderer of the process that queued the reply. `interrupts`: the reply stops the running one, and
    goes before the other waiting replies.
    """

    topic = "reply.queued"

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    renderer: int
    interrupts: bool = False

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyRequested(Event, frozen=True, kw_only=True):
    """A reply starts.

    parameters   what the client set, as JSON text
    input        items that have not joined the conversation
    transcript   for Chat Completions requests
    queued       the reply waited for its turn
    after        the item after which the reply opens a branch; None: it is appended at the head
    regenerates  the item or response that the reply is another version of
    """

    topic = "reply.requested"

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    shown: Shown
    transcript: Transcript | None = None
    queued: bool = False
    after: Leaf | None = None
    regenerates: str | None = None

    @property
    def row_key(self) -> str:
        return self.response_id

    @property
    def renderer(self) -> int:
        return self.shown.renderer


class ReplyShown(Event, frozen=True, kw_only=True):
    """The provider refused the request, and the model is asked again with another context.

    `reason`: `window` if the request was too long. `aside`: the reply's items will open a branch; False in older
    events.
    """

    topic = "reply.shown"

    response_id: str
    model: str
    shown: Shown
    reason: str
    aside: bool = False

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyCompleted(Event, frozen=True, kw_only=True):
    """The model's answer has arrived. Input and output join the conversation in the same append.

    delta_lengths  characters in each streamed delta, item after item
    cost           billionths of a US dollar; None: the price is not known
    prefix_tokens  the `tokens` of the request's SharedPrefix
    key_id         the request's API key; None without one, and in older events
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
    service_tier: str | None = None
    prefix_tokens: int = 0
    key_id: str | None = None

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyFailed(Event, frozen=True, kw_only=True):
    """`output`: what had arrived; its last item may be incomplete. Old events have `partial_output`, the text."""

    topic = "reply.failed"
    input_ids: ClassVar[tuple[str, ...]] = ()
    output_ids: ClassVar[tuple[str, ...]] = ()

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
    """A client cancelled or deleted the reply, or asked for one that interrupts it.

    `input_ids`, `output_ids`: items that join in the same append, if the policy keeps stopped replies. `output`: the
    items that do not join.
    """

    topic = "reply.cancelled"

    response_id: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()
    input_ids: tuple[str, ...] = ()
    output_ids: tuple[str, ...] = ()

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyInterrupted(Event, frozen=True, kw_only=True):
    """The reply's process ended, or its client disconnected or may no longer read the conversation."""

    topic = "reply.interrupted"

    response_id: str
    code: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()
    input_ids: tuple[str, ...] = ()
    output_ids: tuple[str, ...] = ()

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyDescribed(Event, frozen=True, kw_only=True):
    topic = "reply.described"

    response_id: str
    metadata: dict[str, str]

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyDeleted(Event, frozen=True, kw_only=True):
    """In a listed conversation, the items of the response stay."""

    topic = "reply.deleted"

    response_id: str

    @property
    def row_key(self) -> str:
        return self.response_id


class ContextCompacted(Event, frozen=True, kw_only=True):
    """A model is shown `summary` in place of the `count` items from `first` to `last`.

    branch, depth  the place of `last`. The summary is shown on each path through `last`
    replaces       the version of the summary that this one includes; 0 for none
    usage, cost    the sums of all calls to the model. The cost is in billionths of a US dollar
    read_position  in a fork, the newest log position of its origins when their items were read; 0 elsewhere
    originals      the `copy_of` values of the items that are copies
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
    read_position: int = 0
    originals: tuple[str, ...] = ()
    branch: int = 0

    @property
    def row_key(self) -> str:
        return SUMMARY


class CompactionUndone(Event, frozen=True, kw_only=True):
    """`active`: the version of the active ContextCompacted, 0 for none. `undone`: the version of the undone one.

    In older events `undone` is 0: all summaries after the active one are undone.
    """

    topic = "context.compaction_undone"

    active: int
    undone: int = 0

    @property
    def row_key(self) -> str:
        return SUMMARY


class CompactionRedone(Event, frozen=True, kw_only=True):
    """`active`: the version of the ContextCompacted that is active again."""

    topic = "context.compaction_redone"

    active: int

    @property
    def row_key(self) -> str:
        return SUMMARY


def feedback_key(target: str, by: str) -> str:
    return f"feedback/{target}/{by}"


class FeedbackGiven(Event, frozen=True, kw_only=True):
    """The subject `by` rated an item or a response. A later rating replaces this one.

    `rating`: 1 or -1. `previous`: the rating that this one replaces. `inherited`: as in ItemRetracted.
    """

    topic = "feedback.given"

    feedback_id: str
    by: str
    rating: int
    item_id: str | None = None
    response_id: str | None = None
    labels: tuple[str, ...] = ()
    comment: str | None = None
    previous: int | None = None
    copy_of: str | None = None
    inherited: bool = False

    @property
    def target(self) -> str:
        return self.item_id or self.response_id or ""

    @property
    def row_key(self) -> str:
        return feedback_key(self.target, self.by)


class FeedbackWithdrawn(Event, frozen=True, kw_only=True):
    """The fields are those of the last FeedbackGiven."""

    topic = "feedback.withdrawn"

    feedback_id: str
    by: str
    rating: int
    item_id: str | None = None
    response_id: str | None = None
    inherited: bool = False

    @property
    def row_key(self) -> str:
        return feedback_key(self.item_id or self.response_id or "", self.by)


class ConversationShared(Event, frozen=True, kw_only=True):
    topic = "conversation.shared"

    shares: tuple[Share, ...]

    @property
    def row_key(self) -> str:
        return SHARES


class ConversationUnshared(Event, frozen=True, kw_only=True):
    topic = "conversation.unshared"

    shares: tuple[Share, ...]

    @property
    def row_key(self) -> str:
        return SHARES


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
    ItemRestored,
    ItemPinned,
    ItemUnpinned,
    HeadMoved,
    ReplyQueued,
    ReplyRequested,
    ReplyShown,
    ReplyCompleted,
    ReplyFailed,
    ReplyCancelled,
    ReplyInterrupted,
    ReplyDeleted,
    ReplyDescribed,
    ContextCompacted,
    CompactionUndone,
    CompactionRedone,
    FeedbackGiven,
    FeedbackWithdrawn,
    ConversationShared,
    ConversationUnshared,
    ConversationEnded,
    ConversationReopened,
    ConversationDeleted,
)
REPLY_ENDS = (ReplyCompleted, ReplyFailed, ReplyCancelled, ReplyInterrupted)
ReplyEnd = ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyInterrupted
"""Each queued or requested reply ends with one of these, unless its conversation is deleted first."""


def joined_ids(end: ReplyEnd) -> tuple[str, ...]:
    """The items that joined: input, then output."""
    return (*end.input_ids, *end.output_ids)


BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
