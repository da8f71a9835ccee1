"""Several commands answer with the Conversation as it is after the command."""

from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes


def conversation_answer(appended: Appended) -> bytes:
    state = appended.conversation
    fork = state.forked_from
    conversation = shapes.conversation(
        state.id,
        metadata=state.metadata,
        status=state.status,
        title=state.title,
        title_by=state.title_by,
        instructions=state.instructions,
        archived=state.archived,
        version=state.version,
        forked_from=shapes.ForkedFrom(fork.conversation_id, fork.item_id, fork.version) if fork else None,
    )
    return shapes.encode(conversation)
