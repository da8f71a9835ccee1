"""What happened to a conversation. Frozen names, frozen topics: a test holds every byte of them still.

An event's place in its stream, its time and who caused it are columns of the stored row (design: section 3), not fields.
Anything may import this module. `item` fields hold the item as it was sent, as JSON text in UTF-8.
"""

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType


class ContextPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How much of a conversation a model is shown: `budget` and `reserve` (for the answer) in tokens; None asks the model's window."""

    strategy: Literal["newest_turns"] = "newest_turns"
    budget: int | None = None
    reserve: int | None = None


class Fork(Struct, frozen=True, kw_only=True):
    """Where a fork left its origin."""

    conversation_id: str
    item_id: str
    version: int


class InputItem(Struct, frozen=True, kw_only=True):
    """An item that a reply was asked with: it joins the conversation when the reply completes."""

    item_id: str
    item: bytes


class ShownRange(Struct, frozen=True, kw_only=True):
    """Consecutive items of the path that a model was shown, both ends included, retracted ones left out."""

    first: str
    last: str
    count: int
    tokens: int


class Shown(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model was shown: enough to render the request's body again from the log.

    `version` is the conversation's version the ranges were read at, `request_sha256` the SHA-256 of the body that was sent.
    """

    version: int
    ranges: tuple[ShownRange, ...]
    budget: int
    tokens: int
    encoding: str
    renderer: int
    request_sha256: bytes
    summary: str | None = None


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
    def row_id(self) -> str | None:
        """The item (or response) the event names, for the row's indexed column."""
        return None


DESCRIPTION = "description"
"""What the rows are indexed by that say how a conversation is described, so that a long one need not be read for them."""


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
    def row_id(self) -> str:
        return DESCRIPTION


class ConversationDescribed(Event, frozen=True, kw_only=True):
    """What is UNSET stays as it was."""

    topic = "conversation.described"

    title: str | None | UnsetType = UNSET
    instructions: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    context_policy: ContextPolicy | UnsetType = UNSET

    @property
    def row_id(self) -> str:
        return DESCRIPTION


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
    def row_id(self) -> str:
        return self.item_id


class ItemRetracted(Event, frozen=True, kw_only=True):
    topic = "item.retracted"

    item_id: str
    branch: int
    depth: int

    @property
    def row_id(self) -> str:
        return self.item_id


class ReplyRequested(Event, frozen=True, kw_only=True):
    """`parameters` is the JSON text of what the caller set; the input's items are not in the conversation yet."""

    topic = "reply.requested"

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    shown: Shown

    @property
    def row_id(self) -> str:
        return self.response_id


class ReplyCompleted(Event, frozen=True, kw_only=True):
    """Appended together with an ItemAppended for each of its items. `delta_lengths`: characters in each streamed piece."""

    topic = "reply.completed"

    response_id: str
    model: str
    input_ids: tuple[str, ...]
    output_ids: tuple[str, ...]
    usage: Usage
    finish_reason: str
    timing: Timing
    delta_lengths: tuple[int, ...] = ()

    @property
    def row_id(self) -> str:
        return self.response_id


class ReplyFailed(Event, frozen=True, kw_only=True):
    """No item joins the conversation; what had arrived is kept here. `code` and `message` are ours, free of content."""

    topic = "reply.failed"

    response_id: str
    code: str
    message: str
    partial_output: str = ""

    @property
    def row_id(self) -> str:
        return self.response_id


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
    ReplyRequested,
    ReplyCompleted,
    ReplyFailed,
    ConversationEnded,
    ConversationReopened,
    ConversationDeleted,
)
BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
