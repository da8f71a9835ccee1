"""The rules for the end of a reply: it completes, fails, is stopped, or is deleted. Pure."""

from collections.abc import Mapping

from domain.appended_items import append_at_head
from domain.commands import CancelReply, CompleteReply, DeleteReply, FailReply, InterruptReply
from domain.conversation import Conversation, KnownItem
from domain.errors import ReplyIsOver, ResponseNotFound
from domain.events import (
    ConversationDeleted,
    Event,
    ItemRetracted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
)


def end_reply(
    state: Conversation, command: CompleteReply | FailReply | CancelReply | InterruptReply
) -> tuple[Event, ...]:
    is_waiting = command.response_id in state.queued and not isinstance(command, CompleteReply)
    if command.response_id not in state.running and not is_waiting:
        raise ReplyIsOver(command.response_id)
    match command:
        case CompleteReply():
            return _complete(state, command)
        case FailReply():
            return (
                ReplyFailed(
                    response_id=command.response_id,
                    code=command.code,
                    message=command.message,
                    output=command.output,
                    delta_lengths=command.delta_lengths,
                ),
            )
        case CancelReply():
            return (
                ReplyCancelled(
                    response_id=command.response_id, output=command.output, delta_lengths=command.delta_lengths
                ),
            )
        case InterruptReply():
            return (
                ReplyInterrupted(
                    response_id=command.response_id,
                    code=command.code,
                    output=command.output,
                    delta_lengths=command.delta_lengths,
                ),
            )


def _complete(state: Conversation, command: CompleteReply) -> tuple[Event, ...]:
    appended = append_at_head(state, (*command.input, *command.output), command.author, command.response_id)
    completed = ReplyCompleted(
        response_id=command.response_id,
        model=command.model,
        input_ids=tuple(item.item_id for item in command.input),
        output_ids=tuple(item.item_id for item in command.output),
        usage=command.usage,
        finish_reason=command.finish_reason,
        timing=command.timing,
        delta_lengths=command.delta_lengths,
        cost=command.cost,
        service_tier=command.service_tier,
    )
    return (*appended, completed)


def delete_reply(state: Conversation, command: DeleteReply, known_items: Mapping[str, KnownItem]) -> tuple[Event, ...]:
    """A running or waiting reply is cancelled first. In an unlisted conversation the reply's items are retracted too.

    If an unlisted conversation holds nothing else, the conversation is deleted instead.
    """
    reply = known_items.get(command.response_id)
    if reply is None or reply.retracted:
        raise ResponseNotFound(command.response_id)
    has_not_ended = command.response_id in (*state.running, *state.queued)
    cancelled = (ReplyCancelled(response_id=command.response_id),) if has_not_ended else ()
    deleted = (*cancelled, ReplyDeleted(response_id=command.response_id))
    if state.listed:
        return deleted
    if command.item_ids != reply.item_ids:
        raise ReplyIsOver(command.response_id)
    items = {
        item_id: item
        for item_id in command.item_ids
        if (item := known_items.get(item_id)) is not None and not item.retracted
    }
    if state.replies == 1 and state.items == len(items):
        return (*deleted, ConversationDeleted())
    retracted = (
        ItemRetracted(item_id=item_id, branch=item.branch, depth=item.depth) for item_id, item in items.items()
    )
    return (*deleted, *retracted)
