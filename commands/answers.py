"""The answer that several commands share: the Conversation as it is after the command."""

from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes


def conversation_answer(appended: Appended) -> bytes:
    """The Conversation, as JSON text."""
    state = appended.conversation
    conversation = shapes.conversation(
        state.id,
        metadata=state.metadata,
        status=state.status,
        title=state.title,
        instructions=state.instructions,
        archived=state.archived,
        version=state.version,
    )
    return shapes.encode(conversation)
