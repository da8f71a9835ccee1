"""Checks what the caller may do with a conversation, and whether a reply there would have to wait.

A handler that works for a long time before it appends its command checks the role first. The log checks each command again when it is appended.
"""

from commands.command_route import CommandContext
from domain.errors import ConversationNotFound, NotAllowed
from infrastructure.event_log.version_lookup import Head
from replies.queued_reply import read_queue_state


async def readable_conversation(context: CommandContext, conversation_id: str) -> Head:
    """The last event (`Head`) of a conversation that the caller may read. Raises ConversationNotFound."""
    head = await context.dependencies.reader.readable_head(conversation_id)
    if head is None:
        raise ConversationNotFound(conversation_id)
    return head


def may_write(context: CommandContext, head: Head) -> bool:
    """Whether the caller may also write into a conversation that they may read."""
    return head.role(context.principal) != "reader"


def check_may_write(context: CommandContext, conversation_id: str, head: Head) -> None:
    """Raises NotAllowed if the caller may only read the conversation."""
    if not may_write(context, head):
        raise NotAllowed(conversation_id, "reader")


async def head_is_busy(context: CommandContext, conversation_id: str) -> bool:
    """Whether a reply at the head of the conversation would have to wait for others. Replies elsewhere in the conversation do not count.

    Raises what `read_queue_state` raises.
    """
    dependencies = context.dependencies
    if not await dependencies.reader.is_locked(conversation_id):
        return False
    state = (
        await read_queue_state(dependencies.log, context.principal, conversation_id, context.request_id)
    ).conversation
    return bool(state.at_head or state.queued)
