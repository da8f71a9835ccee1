"""Checks what the caller may do with a conversation.

The log checks each command again. These checks come first, before long work.
"""

from commands.command_route import CommandContext
from domain.errors import ConversationNotFound, NotAllowed
from infrastructure.event_log.version_lookup import Head
from replies.queued_reply import read_queue_state


async def readable_conversation(context: CommandContext, conversation_id: str) -> Head:
    """The conversation's last event. Raises ConversationNotFound, also if the caller may not read the conversation."""
    head = await context.dependencies.reader.readable_head(conversation_id)
    if head is None:
        raise ConversationNotFound(conversation_id)
    return head


def may_write(context: CommandContext, head: Head) -> bool:
    return head.role(context.principal) != "reader"


def check_may_write(context: CommandContext, conversation_id: str, head: Head) -> None:
    """Raises NotAllowed."""
    if not may_write(context, head):
        raise NotAllowed(conversation_id, "reader")


async def head_is_busy(context: CommandContext, conversation_id: str) -> bool:
    """Whether a reply at the head of the conversation would have to wait. Raises what `read_queue_state` raises."""
    dependencies = context.dependencies
    if not await dependencies.reader.is_locked(conversation_id):
        return False
    state = (
        await read_queue_state(dependencies.log, context.principal, conversation_id, context.request_id)
    ).conversation
    return bool(state.at_head or state.queued)
