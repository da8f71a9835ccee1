"""Which fields of events hold content, and which deletions remove it. Pure.

Content is what people or models wrote, except the labels of feedback.
A test fails if a field of an event is in neither of the two tables.
"""

from collections.abc import Mapping
from typing import Final, Literal

from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationShared,
    ConversationStarted,
    ConversationUnshared,
    Event,
    FeedbackGiven,
    FeedbackWithdrawn,
    HeadMoved,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyDescribed,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    ReplyShown,
)

Part = Literal["conversation", "title", "item", "items", "response", "summary", "transcript", "target"]
"""What a field's content belongs to. Deleting this, or the conversation, deletes the content.

title          the items in `title_items`. A person's title belongs to the conversation
items          each InputItem belongs both to the item with its id and to the response `response_id`
target         the item `item_id`, or the response `response_id` if there is no `item_id`
transcript     the response. The `changes` of each TranscriptPart also belong to its `items`
"""

CONTENT: Final[Mapping[type[Event], Mapping[str, Part]]] = {
    ConversationStarted: {"title": "conversation", "instructions": "conversation", "metadata": "conversation"},
    ConversationDescribed: {"title": "title", "instructions": "conversation", "metadata": "conversation"},
    ConversationEnded: {"reason": "conversation"},
    ItemAppended: {"item": "item"},
    ReplyQueued: {"parameters": "response", "input": "items"},
    ReplyRequested: {"parameters": "response", "input": "items", "transcript": "transcript"},
    ReplyDescribed: {"metadata": "response"},
    ReplyFailed: {"partial_output": "response", "output": "items"},
    ReplyCancelled: {"output": "items"},
    ReplyInterrupted: {"output": "items"},
    ContextCompacted: {"summary": "summary"},
    FeedbackGiven: {"comment": "target"},
}

NO_CONTENT: Final[Mapping[type[Event], frozenset[str]]] = {
    ConversationStarted: frozenset(
        {"conversation_id", "tenant", "owner", "family", "context_policy", "listed", "forked_from", "pinned", "summary"}
    ),
    ConversationDescribed: frozenset(
        {"context_policy", "listed", "archived", "title_by", "title_items", "model", "usage", "cost"}
    ),
    ItemAppended: frozenset(
        {
            *("item_id", "parent_id", "branch", "depth", "author", "revises", "response_id", "copy_of"),
            *("leaves", "aside"),
        }
    ),
    HeadMoved: frozenset({"item_id", "depth", "path"}),
    ItemRetracted: frozenset({"item_id", "branch", "depth", "inherited"}),
    ItemRestored: frozenset({"item_id", "branch", "depth", "inherited"}),
    ItemPinned: frozenset({"item_id", "branch", "depth", "pinned"}),
    ItemUnpinned: frozenset({"item_id", "pinned"}),
    ReplyQueued: frozenset({"response_id", "model", "renderer", "interrupts"}),
    ReplyRequested: frozenset({"response_id", "model", "shown", "queued", "after", "regenerates"}),
    ReplyShown: frozenset({"response_id", "model", "shown", "reason", "aside"}),
    ReplyCompleted: frozenset(
        {
            *("response_id", "model", "input_ids", "output_ids", "usage"),
            *("finish_reason", "timing", "delta_lengths", "cost", "service_tier", "prefix_tokens", "key_id"),
        }
    ),
    ReplyFailed: frozenset({"response_id", "code", "message", "delta_lengths"}),
    ReplyCancelled: frozenset({"response_id", "delta_lengths", "input_ids", "output_ids"}),
    ReplyInterrupted: frozenset({"response_id", "code", "delta_lengths", "input_ids", "output_ids"}),
    ReplyDeleted: frozenset({"response_id"}),
    ReplyDescribed: frozenset({"response_id"}),
    ContextCompacted: frozenset(
        {
            *("compaction_id", "first", "last", "depth", "count", "tokens_before", "tokens_after"),
            *("model", "replaces", "usage", "cost", "read_position", "originals", "branch"),
        }
    ),
    CompactionUndone: frozenset({"active", "undone"}),
    CompactionRedone: frozenset({"active"}),
    FeedbackGiven: frozenset(
        {
            *("feedback_id", "by", "rating", "item_id", "response_id", "labels"),
            *("previous", "copy_of", "inherited"),
        }
    ),
    FeedbackWithdrawn: frozenset({"feedback_id", "by", "rating", "item_id", "response_id", "inherited"}),
    ConversationShared: frozenset({"shares"}),
    ConversationUnshared: frozenset({"shares"}),
    ConversationEnded: frozenset(),
    ConversationReopened: frozenset(),
    ConversationDeleted: frozenset(),
}
"""The store writes `ReplyFailed.message` itself, without content."""
