"""How often each command is drawn, and when a command is not drawn."""

from collections.abc import Callable, Mapping
from typing import Final

from tests.conversations import (
    chat_commands,
    compaction_commands,
    conversation_commands,
    failed_replies,
    feedback_commands,
    fork_commands,
    item_commands,
    reply_commands,
    response_commands,
)
from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import AnyCommand, Draws

WEIGHTS: Final[Mapping[Callable[[Draws, ModelConversation], AnyCommand | None], int]] = {
    item_commands.append: 12,
    item_commands.revise: 8,
    item_commands.move_head: 6,
    item_commands.retract: 6,
    item_commands.restore: 6,
    item_commands.pin: 4,
    item_commands.unpin: 2,
    feedback_commands.rate_item: 3,
    feedback_commands.rate_response: 3,
    feedback_commands.withdraw: 2,
    reply_commands.reply: 8,
    reply_commands.background_reply: 2,
    reply_commands.continue_answer: 4,
    reply_commands.continue_elsewhere: 2,
    reply_commands.ask_nowhere: 1,
    reply_commands.regenerate: 4,
    reply_commands.stopped_reply: 3,
    reply_commands.stopped_regenerate: 2,
    reply_commands.deleted_reply: 1,
    failed_replies.failing_reply: 2,
    failed_replies.failing_regenerate: 1,
    failed_replies.retry: 6,
    response_commands.delete_ended_response: 2,
    response_commands.describe_completion: 2,
    chat_commands.chat: 2,
    chat_commands.chat_on: 4,
    chat_commands.repeat_history: 2,
    compaction_commands.compact: 5,
    compaction_commands.undo: 3,
    compaction_commands.redo: 3,
    fork_commands.fork: 2,
    fork_commands.fork_at_item: 3,
    fork_commands.fork_at_version: 2,
    fork_commands.fork_with_tail: 1,
    fork_commands.fork_with_tail_of_version: 1,
    conversation_commands.share: 4,
    conversation_commands.unshare: 2,
    conversation_commands.describe: 3,
    conversation_commands.archive: 2,
    conversation_commands.end: 2,
    conversation_commands.reopen: 20,
}

NOT_AT_ONCE: Final = (conversation_commands.share, conversation_commands.unshare)
"""Commands that can end a subject's access before the test has read the result."""

NOT_WHEN_ENDED: Final = (
    item_commands.append,
    item_commands.revise,
    item_commands.move_head,
    reply_commands.reply,
    reply_commands.background_reply,
    reply_commands.continue_answer,
    reply_commands.regenerate,
    reply_commands.stopped_reply,
    reply_commands.stopped_regenerate,
    reply_commands.deleted_reply,
    failed_replies.failing_reply,
    failed_replies.failing_regenerate,
    failed_replies.retry,
)
"""Commands that an ended conversation refuses."""
