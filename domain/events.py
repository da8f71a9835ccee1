"""Every event of a conversation, in one file. Topics and field names are frozen: a test compares stored bytes.

An event's version, its time and who caused it are columns of the stored row, not fields. A field `item` holds an item as it was
sent, as JSON text in UTF-8. The `id` inside this text is the client's; `item_id` is ours. Older events do not hold the client's id.
"""

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType


class ContextPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How much of a conversation a model is shown, and what happens to a reply that is stopped or loses its client.

    `strategy`: whether turns that no longer fit are left out (`newest_turns`) or summarized (`rolling_summary`).
    `budget`: tokens that may be sent; None: as many as the model's window allows. `reserve`: tokens kept free for the answer, if the
    request has no `max_output_tokens`; None: 1,024, or half of a smaller window. `window`: where the shown turns begin. `newest`: as early as
    the budget allows. `stable`: at the same turn as in the last request, as long as all turns from there on fit. Otherwise at the first later
    turn with which the request fills at most `refill` (0.1 to 0.9) of the budget, or at the last turn. `stopped`: whether the question and the partial
    answer of a stopped reply join the conversation. `on_disconnect`: whether a reply ends when its client disconnects.
    """

    strategy: Literal["newest_turns", "rolling_summary"] = "newest_turns"
    budget: int | None = None
    reserve: int | None = None
    window: Literal["stable", "newest"] = "stable"
    refill: float = 0.6
    stopped: Literal["drop", "keep"] = "drop"
    on_disconnect: Literal["stop", "finish"] = "stop"


class PathBranch(Struct, frozen=True, array_like=True):
    """A branch that a path takes, and where the path leaves it (`domain/paths.py`).

    `branch`: the version of the ItemAppended that opened the branch; 0 for the first one. `last_depth`: the depth of
    the last item that the path has on the branch. `last_version`: that item has this version or a lower one.
    `last_depth` and `last_version` are None if the path follows the branch to its end.
    """

    branch: int
    last_depth: int | None = None
    last_version: int | None = None


class Leaf(Struct, frozen=True, array_like=True):
    """The item after which others are appended: its id, its depth, and the path that ends with it.

    `item_id` None and depth 0: before the first item. `path`: the branches of that path in
    the conversation that gets the new items. If this conversation is a fork, the items that it inherits count as items of branch 0.
    """

    item_id: str | None
    depth: int
    path: tuple[PathBranch, ...]


class Fork(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a fork begins: after item `item_id` of the conversation `conversation_id`, its origin.

    `version`: the fork inherits the origin as it was at this version. `depth`: the item's depth. `branches`: the origin's
    path up to the item; it may be empty if it is the first branch alone. `item_id` None and `depth` 0: before the first item.
    """

    conversation_id: str
    item_id: str | None
    version: int
    depth: int = 0
    branches: tuple[PathBranch, ...] = ()


class InheritedSummary(Struct, frozen=True, kw_only=True):
    """The summary that a fork inherits: the ContextCompacted of `conversation_id` at `version`."""

    conversation_id: str
    version: int


class InputItem(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An item that is stored in an event of a reply. If it joins the conversation, an ItemAppended adds it.

    `copy_of`: as in ItemAppended.
    """

    item_id: str
    item: bytes
    copy_of: str | None = None


class ShownRange(Struct, frozen=True, kw_only=True):
    """Consecutive items of the path that a model was shown, from `first` to `last`, without retracted ones."""

    first: str
    last: str
    count: int
    tokens: int


class LeftOut(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Items that a model was not shown, or not in full, and why.

    `reason` "budget": the items did not fit. If the path was not read to its start, this range has no `first`, and its
    `count` includes deleted items; in older events it has no `count`. If none of its items was read, it has no `last`
    either. `reason` "deleted": a fork inherited the items from a conversation that is deleted. This range has no `first`.
    """

    reason: str
    first: str | None = None
    last: str | None = None
    count: int | None = None


class SequencePoint(Struct, frozen=True, array_like=True):
    """The beginning of a request: its tools and its first `length` parts. `tokens`: the tokens of all these together.

    `sha256`: the first 8 bytes of the SHA-256 of the parts. The parts of a request are its instructions, and then each message of its body.
    """

    length: int
    tokens: int
    sha256: bytes


class SentSequence(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the next request of the same model is compared with (`context/sent_sequence.py`).

    depth        the depth of the path's last item when the request was made
    first_depth  the depth at which the window began. If the window had the whole path: the first depth after the summary. If the window was
                 empty for lack of room: one more than `depth`
    settings     the first 4 bytes of the SHA-256 of each setting that a prompt cache depends on
    summary      the first 8 bytes of the SHA-256 of the id of the compaction whose summary was sent
    points       in the order of their length; the last one is the whole request
    """

    depth: int
    first_depth: int
    settings: bytes
    points: tuple[SequencePoint, ...]
    summary: bytes = b""


class SharedPrefix(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The beginning that a request has in common with the last request to the same model on the path.

    `tokens`, `messages`: how long it is. `messages` counts messages of the request's body. `reason`: why the prefix is shorter
    than that last request, or why there was no such request, in the words of `prompt_cache_diagnostics` in the official API.
    None: the prefix is the whole last request.
    """

    tokens: int
    messages: int
    reason: str | None = None


class Shown(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model was shown: enough to render the body of the request again from the log.

    `version`: the conversation's version when the ranges were read. `request_sha256`: the SHA-256 of the body that was sent. `summary`: the id of the
    compaction whose summary was sent before the items. `sequence` and `shared_prefix`: None in older events, and for Chat Completions requests.
    `notes`: abilities that some of the items need and that the model was assumed to lack. Notes replaced the content that needs these abilities.
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
    """The first `count` messages of the transcript of an earlier request, `response_id` in `conversation_id`."""

    conversation_id: str
    response_id: str
    count: int


class TranscriptPart(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One or more messages of a transcript. Either `items` or `message` is set.

    items    the ids of consecutive items that the messages are made of: items of the path, or of the request's own input
    changes  None: the messages that the store makes from the items are those that were sent. Otherwise: how the message
             that was sent differs from the one message that the items make (`context/transcripts/message_changes.py`)
    message  one message as JSON text, as it was sent. It is stored here because it matches no items
    """

    items: tuple[str, ...] = ()
    changes: bytes | None = None
    message: bytes | None = None


class Transcript(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The messages of a Chat Completions request, in order: enough to render them again exactly.

    instructions  the leading system and developer messages, as JSON texts. They are not items
    base          the messages of an earlier request that come next; None: there are none
    parts         the messages after `base`
    """

    instructions: tuple[bytes, ...] = ()
    base: TranscriptBase | None = None
    parts: tuple[TranscriptPart, ...] = ()


class Usage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tokens, as counted by the provider. `cached_tokens` and `cache_write_tokens` are parts of the input tokens, `reasoning_tokens` is a part of the output tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0


class Timing(Struct, frozen=True, kw_only=True):
    """Milliseconds after the request was sent to the provider: when the first part of the answer came, and when the last one came."""

    first_ms: int
    total_ms: int


class Share(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who else may use a conversation: one subject, or everyone of the tenant (`subject` None). A writer may also read."""

    role: Literal["reader", "writer"]
    subject: str | None = None


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every event has: a topic, which never changes, and a row key, which may be None."""

    topic: ClassVar[str]

    @property
    def row_key(self) -> str | None:
        """What the stored row is indexed by (column `item_id`): the id of an item or a response, a `feedback_key`, or one of the words below. None: not indexed."""
        return None


# Row keys of the events that change a conversation's settings, pins, summaries, shares or head. These few rows are found without reading the stream.

DESCRIPTION = "description"
"""The key of the stream's first row, and of ConversationDescribed rows that were written before the next three keys existed."""

INSTRUCTIONS = "instructions"
POLICY = "policy"
INSTRUCTIONS_AND_POLICY = "instructions and policy"
"""These three are keys of changes: of the instructions, of the policy, and of both. The last row that changes a value holds the current value.

A ConversationDescribed that changes neither the instructions nor the policy has no key.
"""

PINS = "pins"
"""Changes of the pinned items. The last row holds all of them; some of these may have been retracted later."""

SUMMARY = "summary"
"""Changes of summaries. Without branches, the last row says which summary is active, unless that one was withdrawn. With branches, earlier rows may count."""

SHARES = "shares"
"""Changes of the shares. The last row holds all of them."""

HEAD = "head"
"""Moves of the head. The last row holds the active path. Without such a row, the active path is the first branch."""


class ConversationStarted(Event, frozen=True, kw_only=True):
    """A conversation was created. `listed`: whether lists of conversations include it.

    `family`: the id of the first conversation in its chain of forks. If it is not a fork, this is its own id.
    `pinned`: the pinned items that a fork inherits. `summary`: the summary that it inherits.
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
    """Title, instructions, metadata, policy or listing changed, or the conversation was archived or unarchived. A field that is UNSET did not change.

    `title_by`: who gave the title. The fields after it are set only if a model did. `title_items`: the items that the
    title was made from. `model`, `usage`, `cost`: those of the call to the model, as in ContextCompacted.
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
    """An item joined the conversation; no other event adds one. `depth`: 1 for the first item of the path, else one more than its parent's.

    `branch`: the branch that the item is on. An item that opens a branch has its own version here, and its
    `leaves` is the path up to its parent. `revises`: the id of the item that this one is another version of. `aside`: the item is not on the active path, and the head stays where it is.

    `copy_of`: the id of the original, if this item is a copy. A copy of a copy names the first original. A copy is deleted when its original is deleted. If the original is in
    the input or the partial answer of a reply and did not join a conversation, `copy_of` is `<response id>/<item id>`, and the copy is also deleted with that response.
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
    """The head is item `item_id` now, and the active path is `path`.

    It follows each item that opens a branch and is not `aside`: then the path goes on along that branch. If a client
    moved the head, the path ends with the item, and the next item that is appended there opens a branch. If an item
    opens a branch `aside` and the head was never moved before, this event follows too. Then it names the head that the conversation has:
    the head does not move.
    """

    topic = "head.moved"

    item_id: str
    depth: int
    path: tuple[PathBranch, ...]

    @property
    def row_key(self) -> str:
        return HEAD


class ItemRetracted(Event, frozen=True, kw_only=True):
    """The item is deleted. Every summary that covers it is withdrawn for good.

    `inherited`: the item belongs to a conversation that this one comes from. It is deleted in this fork and in the forks of this fork.
    Its own conversation keeps it.
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
    """The item is not deleted any more. It is at its place again. Summaries that were made without it are withdrawn.

    Pins and summaries that its deletion ended do not come back. `inherited`: as in ItemRetracted.
    """

    topic = "item.restored"

    item_id: str
    branch: int
    depth: int
    inherited: bool = False

    @property
    def row_key(self) -> str:
        return self.item_id


class ItemPinned(Event, frozen=True, kw_only=True):
    """The item is shown to a model even if its turn no longer fits. `pinned`: all pinned items, this one last."""

    topic = "item.pinned"

    item_id: str
    branch: int
    depth: int
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ItemUnpinned(Event, frozen=True, kw_only=True):
    """The item is not pinned any more. `pinned`: the items that are still pinned."""

    topic = "item.unpinned"

    item_id: str
    pinned: tuple[str, ...]

    @property
    def row_key(self) -> str:
        return PINS


class ReplyQueued(Event, frozen=True, kw_only=True):
    """A reply waits for its turn, usually because another one runs or others wait before it. The row's subject requested the reply.

    When its turn comes, a ReplyRequested with the same `response_id` follows. `parameters` and `input`: as in
    ReplyRequested. `renderer`: the renderer that was set in the process that queued it. `interrupts`: this reply
    stops the running one, and goes before the others that wait.
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
    """A model is asked for a reply. `parameters`: what the client set, as JSON text.

    The items of `input` are not in the conversation yet. `transcript`: the messages of a Chat Completions request; None
    for other requests. `queued`: whether the reply waited for its turn before (ReplyQueued). `after`: the item after
    which the reply's items open a branch; None: they are appended at the head. `regenerates`: the item or response that
    the reply is another version of.
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
    """The provider refused the reply's request, and the model is asked again with another context.

    `shown` replaces the earlier one of this reply. `reason`: why the provider refused, for example `window`: the
    request was too long. `aside`: the reply's items will open a branch. False in older events.
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
    """A reply has its answer. This event is appended together with an ItemAppended for each item of the reply.

    `delta_lengths`: characters in each streamed delta, item after item. `cost`: billionths of a US dollar; None if the price is
    not known. `service_tier`: as the provider reported it. `prefix_tokens`: the tokens of the request's SharedPrefix.
    `key_id`: the API key that the request came with; None if it came without one, and in older events.
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
    """A reply failed. No item of it joins the conversation. `output`: what had arrived; its last item may be incomplete.

    `code` and `message` are the store's own and contain no content. `partial_output`: the text, in events written before `output` existed.
    """

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
    """A client cancelled or deleted the reply, or asked for another reply that interrupts it.

    If the conversation's policy keeps stopped replies, and the reply ran and was not deleted, the question and the partial answer join it in the same append: `input_ids` and
    `output_ids` name these items. `output`: what had arrived and did not join.
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
    """The process that ran the reply ended, or the reply's client disconnected or may no longer read the conversation.

    `code`: the reason. The other fields are as in ReplyCancelled.
    """

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
    """The Response has other metadata from now on."""

    topic = "reply.described"

    response_id: str
    metadata: dict[str, str]

    @property
    def row_key(self) -> str:
        return self.response_id


class ReplyDeleted(Event, frozen=True, kw_only=True):
    """The response can no longer be read. In a listed conversation the items that joined it stay. In an unlisted one they are
    retracted in the same append. An unlisted conversation that holds nothing else is deleted instead.
    """

    topic = "reply.deleted"

    response_id: str

    @property
    def row_key(self) -> str:
        return self.response_id


class ContextCompacted(Event, frozen=True, kw_only=True):
    """A model is shown `summary` instead of the `count` items from `first` to `last`, which stay readable.

    `first`: the path's first unretracted item. `branch`, `depth`: the place of `last`; an inherited item counts as an item of branch 0. A model is shown the summary on each path through `last`. `replaces`: the version of the summary that this one includes, 0
    for none. `tokens_before`: tokens of those items. `tokens_after`: tokens of the summary. `usage` and `cost`: those of all calls to the model.
    The cost is in billionths of a US dollar; None if it is not known. `read_position`: in a fork, the newest log position of the conversations
    that it inherits from, at the time when their items were read; 0 elsewhere. `originals`: the `copy_of` of each of those items that is a copy.
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
    """The last compaction of the active path was undone.

    `active`: the version of the ContextCompacted whose summary is active now, 0 for none. `undone`: the version of the
    ContextCompacted that was undone. In older events it is 0: then all summaries after the active one are undone.
    """

    topic = "context.compaction_undone"

    active: int
    undone: int = 0

    @property
    def row_key(self) -> str:
        return SUMMARY


class CompactionRedone(Event, frozen=True, kw_only=True):
    """A compaction was redone. `active`: the version of the ContextCompacted whose summary is active again."""

    topic = "context.compaction_redone"

    active: int

    @property
    def row_key(self) -> str:
        return SUMMARY


def feedback_key(target: str, by: str) -> str:
    """The row key of the feedback that a subject gave to an item or a response."""
    return f"feedback/{target}/{by}"


class FeedbackGiven(Event, frozen=True, kw_only=True):
    """The subject `by` rated an item or a response: either `item_id` or `response_id` is set. Giving again replaces what was given before.

    `rating`: 1 or -1. `previous`: the rating that this one replaces. `copy_of`: that of the item. `inherited`: the item belongs to a
    conversation that this one comes from.
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
        """The id of the item or the response."""
        return self.item_id or self.response_id or ""

    @property
    def row_key(self) -> str:
        return feedback_key(self.target, self.by)


class FeedbackWithdrawn(Event, frozen=True, kw_only=True):
    """The subject who gave the feedback withdrew it. The fields are those of the last FeedbackGiven."""

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
    """The conversation was shared, or a share got another role. `shares`: all shares from now on."""

    topic = "conversation.shared"

    shares: tuple[Share, ...]

    @property
    def row_key(self) -> str:
        return SHARES


class ConversationUnshared(Event, frozen=True, kw_only=True):
    """A share was withdrawn. `shares`: those that remain."""

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
"""The events that end a reply.

Each reply that was queued or requested gets one of them, unless its conversation is deleted first.
"""


def joined_ids(end: ReplyEnd) -> tuple[str, ...]:
    """The ids of the items that joined the conversation when the reply ended: its input, then its output."""
    return (*end.input_ids, *end.output_ids)


BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
