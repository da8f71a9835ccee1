"""The rules for the end of a reply. Pure.

The items of a completed reply join the conversation. The items of a failed reply never join. For a stopped reply, the
context policy decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from domain.appended_items import append_at_head, open_branch
from domain.commands import CancelReply, CompleteReply, DeleteReply, FailReply, InterruptReply, NewItem
from domain.conversation import Conversation, KnownItem
from domain.errors import ReplyIsOver, ResponseNotFound
from domain.events import (
    ConversationDeleted,
    Event,
    InputItem,
    ItemRetracted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
)
from domain.items import from_stored, is_usable


def end_reply(
    state: Conversation, command: CompleteReply | FailReply | CancelReply | InterruptReply
) -> tuple[Event, ...]:
    """Raises ReplyIsOver."""
    is_waiting = command.response_id in state.queued and not isinstance(command, CompleteReply)
    if state.reply(command.response_id) is None and not is_waiting:
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
        case CancelReply() | InterruptReply():
            return _stop(state, command)


def joinable(output: Sequence[InputItem]) -> Sequence[InputItem]:
    """Leaves out the last item if it cannot be sent to a model again, such as half a call."""
    return output if not output or is_usable(from_stored(output[-1].item)) else output[:-1]


def _complete(state: Conversation, command: CompleteReply) -> tuple[Event, ...]:
    appended = _join(state, (*command.input, *command.output), command)
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
        prefix_tokens=command.prefix_tokens,
        key_id=command.key_id,
    )
    return (*appended, completed)


def _join(
    state: Conversation, items: Sequence[NewItem | InputItem], command: CompleteReply | CancelReply | InterruptReply
) -> Iterator[Event]:
    """If the reply opens a branch, the head moves there, unless the head was moved elsewhere meanwhile."""
    reply = state.reply(command.response_id)
    if reply is None or reply.leaf is None:
        return append_at_head(state, items, command.author, command.response_id)
    stays = not (reply.names_leaf and state.head in (reply.head, reply.leaf.item_id))
    return open_branch(state, reply.leaf, items, command.author, response_id=command.response_id, aside=stays)


def _stop(state: Conversation, command: CancelReply | InterruptReply) -> tuple[Event, ...]:
    """Nothing joins if the reply was still waiting for its turn."""
    keeps = state.context_policy.stopped == "keep" and state.reply(command.response_id) is not None
    joining_input = command.input if keeps else ()
    joining_output = joinable(command.output) if keeps else ()
    appended = _join(state, (*joining_input, *joining_output), command)
    facts: dict[str, Any] = {
        "response_id": command.response_id,
        "output": command.output[len(joining_output) :],
        "delta_lengths": command.delta_lengths,
        "input_ids": tuple(item.item_id for item in joining_input),
        "output_ids": tuple(item.item_id for item in joining_output),
    }
    if isinstance(command, CancelReply):
        return (*appended, ReplyCancelled(**facts))
    return (*appended, ReplyInterrupted(code=command.code, **facts))


def delete_reply(state: Conversation, command: DeleteReply, known_items: Mapping[str, KnownItem]) -> tuple[Event, ...]:
    """If the reply has not ended, it is cancelled, and none of its items joins.

    In an unlisted conversation its items are retracted too, or the conversation is deleted if nothing else is left.
    Raises ResponseNotFound. Raises ReplyIsOver if the reply has added other items than `item_ids` to an unlisted
    conversation.
    """
    reply = known_items.get(command.response_id)
    if reply is None or reply.retracted:
        raise ResponseNotFound(command.response_id)
    has_not_ended = command.response_id in state.queued or state.reply(command.response_id) is not None
    cancelled = (ReplyCancelled(response_id=command.response_id),) if has_not_ended else ()
    deleted = (*cancelled, ReplyDeleted(response_id=command.response_id))
    if state.listed:
        return deleted
    if command.item_ids != reply.item_ids:
        raise ReplyIsOver(command.response_id)
    retracted = retract_all(command.item_ids, known_items)
    if state.replies == 1 and state.items == len(retracted):
        return (*deleted, ConversationDeleted())
    return (*deleted, *retracted)


def retract_all(item_ids: Sequence[str], known_items: Mapping[str, KnownItem]) -> tuple[ItemRetracted, ...]:
    """Skips items that are retracted already."""
    return tuple(
        ItemRetracted(item_id=item_id, branch=item.branch, depth=item.depth, inherited=item.inherited)
        for item_id in item_ids
        if (item := known_items.get(item_id)) is not None and not item.retracted
    )
