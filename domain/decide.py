"""The rules: which events a command leads to, or why it is refused. Pure; nothing here changes anything."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import UNSET

from domain.commands import (
    AppendItems,
    Command,
    CompleteReply,
    DeleteConversation,
    DescribeConversation,
    EndConversation,
    FailReply,
    NewItem,
    ReopenConversation,
    RequestReply,
    RetractItem,
    StartConversation,
)
from domain.conversation import Conversation, KnownItem
from domain.errors import ConversationExists, ConversationIsEnded, ConversationNotFound, ItemNotFound, ReplyIsOver
from domain.events import (
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationStarted,
    Event,
    InputItem,
    ItemAppended,
    ItemRetracted,
    ReplyCompleted,
    ReplyFailed,
    ReplyRequested,
)


def decide(
    conversation_id: str, state: Conversation | None, command: Command, known: Mapping[str, KnownItem]
) -> tuple[Event, ...]:
    """The events that follow from `command`; none at all where it changes nothing.

    `known` holds what the log says of the items the command touches; one that is missing was never appended.
    Raises `Refused` when the rules do not allow it.
    """
    if isinstance(command, StartConversation):
        return _start(state, command)
    if isinstance(command, RequestReply) and command.start is not None:
        return (*_start(state, command.start), _requested(command))
    if state is None or state.status == "deleted":
        raise ConversationNotFound(conversation_id)
    match command:
        case AppendItems():
            _must_be_active(state)
            return tuple(_below_head(state, command.items, command.author))
        case RetractItem():
            return _retract(command, known.get(command.item_id))
        case DescribeConversation():
            return _describe(state, command)
        case RequestReply():
            _must_be_active(state)
            return (_requested(command),)
        case CompleteReply():
            return _complete(state, command)
        case FailReply():
            _must_be_running(state, command.response_id)
            return (
                ReplyFailed(
                    response_id=command.response_id,
                    code=command.code,
                    message=command.message,
                    partial_output=command.partial_output,
                ),
            )
        case EndConversation():
            return () if state.status == "ended" else (ConversationEnded(reason=command.reason),)
        case ReopenConversation():
            return () if state.status == "active" else (ConversationReopened(),)
        case DeleteConversation():
            return (ConversationDeleted(),)
        case _:
            raise TypeError(f"No rule decides {type(command).__name__}")


def _must_be_active(state: Conversation) -> None:
    if state.status != "active":
        raise ConversationIsEnded(state.id)


def _must_be_running(state: Conversation, response_id: str) -> None:
    if response_id not in state.running:
        raise ReplyIsOver(response_id)


def _start(state: Conversation | None, command: StartConversation) -> tuple[Event, ...]:
    if state is not None:
        raise ConversationExists(command.conversation_id)
    started = ConversationStarted(
        conversation_id=command.conversation_id,
        tenant=command.tenant,
        owner=command.owner,
        family=command.conversation_id,
        title=command.title,
        instructions=command.instructions,
        metadata=command.metadata,
        context_policy=command.context_policy,
        listed=command.listed,
    )
    return (started, *_chain(command.items, author=command.owner, parent=None, branch=0, depth=0, response_id=None))


def _below_head(
    state: Conversation, items: Sequence[NewItem | InputItem], author: str, response_id: str | None = None
) -> Iterator[ItemAppended]:
    return _chain(
        items, author=author, parent=state.head, branch=state.branch, depth=state.depth, response_id=response_id
    )


def _chain(
    items: Sequence[NewItem | InputItem],
    *,
    author: str,
    parent: str | None,
    branch: int,
    depth: int,
    response_id: str | None,
) -> Iterator[ItemAppended]:
    """Each item below the one before it, the first below `parent`."""
    for distance, new in enumerate(items, 1):
        yield ItemAppended(
            item_id=new.item_id,
            parent_id=parent,
            branch=branch,
            depth=depth + distance,
            item=new.item,
            author=author,
            response_id=response_id,
        )
        parent = new.item_id


def _requested(command: RequestReply) -> ReplyRequested:
    return ReplyRequested(
        response_id=command.response_id,
        model=command.model,
        parameters=command.parameters,
        input=command.input,
        shown=command.shown,
    )


def _retract(command: RetractItem, item: KnownItem | None) -> tuple[Event, ...]:
    if item is None or item.retracted:
        raise ItemNotFound(command.item_id)
    return (ItemRetracted(item_id=command.item_id, branch=item.branch, depth=item.depth),)


def _describe(state: Conversation, command: DescribeConversation) -> tuple[Event, ...]:
    changes = {
        name: value
        for name in ("title", "instructions", "metadata", "context_policy")
        if (value := getattr(command, name)) is not UNSET and value != getattr(state, name)
    }
    return (ConversationDescribed(**changes),) if changes else ()


def _complete(state: Conversation, command: CompleteReply) -> tuple[Event, ...]:
    _must_be_running(state, command.response_id)
    joined = _below_head(state, (*command.input, *command.output), command.author, command.response_id)
    completed = ReplyCompleted(
        response_id=command.response_id,
        model=command.model,
        input_ids=tuple(item.item_id for item in command.input),
        output_ids=tuple(item.item_id for item in command.output),
        usage=command.usage,
        finish_reason=command.finish_reason,
        timing=command.timing,
        delta_lengths=command.delta_lengths,
    )
    return (*joined, completed)
