"""The rules for replies that wait for their turn. Pure."""

from domain.commands import QueueReply, RequestReply
from domain.conversation import Conversation
from domain.errors import ConversationLocked, ReplyIsOver, TooManyQueued
from domain.events import Event, ReplyCancelled, ReplyQueued

MAX_QUEUED = 16
"""A waiting reply that interrupts is not counted."""


def queue_reply(state: Conversation, command: QueueReply) -> tuple[Event, ...]:
    """If the new reply interrupts, a waiting reply that interrupts is cancelled. Raises TooManyQueued."""
    superseded: tuple[Event, ...] = ()
    if not command.interrupts:
        if len(state.queued) - (state.interrupting is not None) >= MAX_QUEUED:
            raise TooManyQueued(state.id, MAX_QUEUED)
    elif state.interrupting is not None:
        superseded = (ReplyCancelled(response_id=state.interrupting),)
    queued = ReplyQueued(**{name: getattr(command, name) for name in ReplyQueued.__struct_fields__})
    return (*superseded, queued)


def check_turn(state: Conversation, command: RequestReply) -> None:
    """Raises ReplyIsOver if a queued reply no longer waits, and ConversationLocked if it is not the reply's turn."""
    if command.queued and command.response_id not in state.queued:
        raise ReplyIsOver(command.response_id)
    if state.at_head or (state.queued and state.queued[0] != command.response_id):
        raise ConversationLocked(state.id)
