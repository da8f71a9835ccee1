"""The rules: which events a command leads to, or why it is refused. Pure."""

from collections.abc import Mapping

from msgspec import UNSET

from domain.appended_items import append_after, append_at_head, check_branches, open_branch
from domain.commands import (
    AppendItems,
    ArchiveConversation,
    CancelReply,
    Command,
    CompactContext,
    CompleteReply,
    DeleteConversation,
    DeleteReply,
    DescribeConversation,
    DescribeReply,
    EndConversation,
    FailReply,
    GiveFeedback,
    InterruptReply,
    MoveHead,
    PinItem,
    QueueReply,
    ReadQueueState,
    RedoCompaction,
    ReopenConversation,
    RequestReply,
    RestoreItem,
    RetractItem,
    ReviseItem,
    ShareConversation,
    ShowReply,
    StartConversation,
    UndoCompaction,
    UnpinItem,
    UnshareConversation,
    WithdrawFeedback,
    WriteTitle,
)
from domain.conversation import Conversation, KnownItem, leaf_at_head
from domain.errors import (
    ConversationExists,
    ConversationIsEnded,
    ConversationLocked,
    ConversationNotFound,
    HeadHasMoved,
    HistoryLost,
    InputHasJoined,
    ItemNotFound,
    ItemsDeleted,
    NothingToUndo,
    PathHasChanged,
    ReplyIsOver,
    ResponseNotFound,
    SharedWithOwner,
    ShareNotFound,
    SummaryHasChanged,
    TooManyPins,
    TooManyShares,
)
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
    HeadMoved,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    ReplyDescribed,
    ReplyRequested,
    ReplyShown,
    Shown,
)
from domain.feedback import give_feedback, withdraw_feedback
from domain.paths import is_open, takes
from domain.reply_ends import delete_reply, end_reply, retract_all
from domain.reply_queue import check_turn, queue_reply
from domain.titles import withdrawn_title, write_title

MAX_PINS = 64
MAX_SHARES = 100


def decide(
    conversation_id: str, state: Conversation | None, command: Command, known_items: Mapping[str, KnownItem]
) -> tuple[Event, ...]:
    """An empty result means that the command changes nothing. Raises Refused.

    `known_items`: by id, the items, responses and feedback of `command.row_keys` that exist.
    """
    events = _events_of(conversation_id, state, command, known_items)
    return events if state is None else (*events, *withdrawn_title(state, events))


def _events_of(  # noqa: C901, PLR0911, PLR0912 - it is a table
    conversation_id: str, state: Conversation | None, command: Command, known_items: Mapping[str, KnownItem]
) -> tuple[Event, ...]:
    if isinstance(command, StartConversation):
        return _start(state, command)
    if isinstance(command, RequestReply) and command.start is not None:
        return (*_start(state, command.start), _reply_requested(command))
    if state is None or state.status == "deleted":
        raise ConversationNotFound(conversation_id)
    match command:
        case AppendItems():
            return _append(state, command)
        case ReviseItem():
            return _revise(state, command, known_items.get(command.item_id, command.inherited))
        case MoveHead():
            return _move_head(state, command, known_items.get(command.item_id, command.inherited))
        case RetractItem():
            return _retract(command, known_items.get(command.item_id, command.inherited))
        case RestoreItem():
            return _restore(state, command, known_items)
        case PinItem():
            return _pin(state, command, known_items.get(command.item_id, command.inherited))
        case UnpinItem():
            return _unpin(state, command, known_items.get(command.item_id, command.inherited))
        case DescribeConversation():
            return _describe(state, command)
        case WriteTitle():
            return write_title(state, command)
        case RequestReply():
            _check_reply_allowed(state, command)
            if not known_items.keys().isdisjoint(command.reuses):
                raise InputHasJoined(state.id)
            listed = (ConversationDescribed(listed=True),) if command.lists and not state.listed else ()
            return (*listed, *retract_all(command.retracts, known_items), _reply_requested(command))
        case QueueReply():
            _check_active(state)
            return queue_reply(state, command)
        case ReadQueueState():
            return ()
        case ShowReply():
            return _show_reply(state, command)
        case CompleteReply() | FailReply() | CancelReply() | InterruptReply():
            return end_reply(state, command)
        case DescribeReply():
            return _describe_reply(command, known_items.get(command.response_id))
        case DeleteReply():
            return delete_reply(state, command, known_items)
        case CompactContext() | UndoCompaction() | RedoCompaction():
            return _change_summary(state, command)
        case GiveFeedback():
            return give_feedback(command, known_items)
        case WithdrawFeedback():
            return withdraw_feedback(command, known_items)
        case ShareConversation():
            return _share(state, command)
        case UnshareConversation():
            return _unshare(state, command)
        case ArchiveConversation():
            changes = command.archived != state.archived
            return (ConversationDescribed(archived=command.archived),) if changes else ()
        case EndConversation():
            return () if state.status == "ended" else (ConversationEnded(reason=command.reason),)
        case ReopenConversation():
            return () if state.status == "active" else (ConversationReopened(),)
        case DeleteConversation():
            return (ConversationDeleted(),)
        case _:
            raise TypeError(f"decide() has no rule for the command {type(command).__name__}")


def _check_active(state: Conversation) -> None:
    if state.status != "active":
        raise ConversationIsEnded(state.id)


def _check_reply_allowed(state: Conversation, command: RequestReply) -> None:
    """At most one running reply appends at the head.

    A reply that opens a branch need not wait for the reply at the head.
    """
    _check_active(state)
    if command.after is not None:
        if command.alone and command.after.item_id in state.awaited_after:
            raise ConversationLocked(state.id)
        check_branches(state, command.after)
    else:
        check_turn(state, command)
        if command.shown.version and command.shown.version < state.moved_at:
            raise PathHasChanged(state.id)
        if not is_open(state.path):
            check_branches(state, leaf_at_head(state))
    if command.expected_head is not UNSET and command.expected_head != state.head:
        raise HeadHasMoved(state.id)
    _check_shown(state, command.shown)


def _check_shown(state: Conversation, shown: Shown) -> None:
    if shown.version > state.version:
        raise HistoryLost(state.id)
    if shown.ranges and shown.version < state.retracted_at:
        raise ItemsDeleted(state.id)


def _start(state: Conversation | None, command: StartConversation) -> tuple[Event, ...]:
    if state is not None:
        raise ConversationExists(command.conversation_id)
    origin = command.forked_from
    started = ConversationStarted(
        conversation_id=command.conversation_id,
        tenant=command.tenant,
        owner=command.owner,
        family=command.family or command.conversation_id,
        title=command.title,
        instructions=command.instructions,
        metadata=command.metadata,
        context_policy=command.context_policy,
        listed=command.listed,
        forked_from=origin,
        pinned=command.pinned,
        summary=command.summary,
    )
    parent, depth = (origin.item_id, origin.depth) if origin else (None, 0)
    return (
        started,
        *append_after(command.items, author=command.owner, parent=parent, branch=0, depth=depth, response_id=None),
    )


def _reply_requested(command: RequestReply) -> ReplyRequested:
    return ReplyRequested(
        response_id=command.response_id,
        model=command.model,
        parameters=command.parameters,
        input=command.input,
        shown=command.shown,
        transcript=command.transcript,
        queued=command.queued,
        after=command.after,
        regenerates=command.regenerates,
    )


def _show_reply(state: Conversation, command: ShowReply) -> tuple[Event, ...]:
    reply = state.reply(command.response_id)
    if reply is None:
        raise ReplyIsOver(command.response_id)
    _check_shown(state, command.shown)
    shown = ReplyShown(
        response_id=command.response_id,
        model=command.model,
        shown=command.shown,
        reason=command.reason,
        aside=reply.leaf is not None,
    )
    return (shown,)


def _append(state: Conversation, command: AppendItems) -> tuple[Event, ...]:
    _check_active(state)
    if command.items and not is_open(state.path):
        check_branches(state, leaf_at_head(state))
    return tuple(append_at_head(state, command.items, command.author))


def _revise(state: Conversation, command: ReviseItem, item: KnownItem | None) -> tuple[Event, ...]:
    _check_active(state)
    if item is None or item.retracted or item.depth - 1 != command.leaf.depth:
        raise ItemNotFound(command.item_id)
    check_branches(state, command.leaf)
    return tuple(open_branch(state, command.leaf, (command.item,), command.author, revises=command.item_id))


def _move_head(state: Conversation, command: MoveHead, item: KnownItem | None) -> tuple[Event, ...]:
    _check_active(state)
    last = command.path[-1]
    if item is None or item.retracted or (item.branch, item.depth) != (last.branch, last.last_depth):
        raise ItemNotFound(command.item_id)
    if command.item_id == state.head:
        return ()
    return (HeadMoved(item_id=command.item_id, depth=item.depth, path=command.path),)


def _retract(command: RetractItem, item: KnownItem | None) -> tuple[Event, ...]:
    if item is None or item.retracted:
        raise ItemNotFound(command.item_id)
    item_id, inherited = command.item_id, item.inherited
    return (ItemRetracted(item_id=item_id, branch=item.branch, depth=item.depth, inherited=inherited),)


def _restore(state: Conversation, command: RestoreItem, known_items: Mapping[str, KnownItem]) -> tuple[Event, ...]:
    item = known_items.get(command.item_id, command.inherited)
    if item is None:
        raise ItemNotFound(command.item_id)
    reply = known_items.get(command.response_id or "")
    if reply is not None and reply.retracted and not state.listed:  # the item was deleted with its response
        raise ItemNotFound(command.item_id)
    if not item.retracted:
        return ()
    restored = ItemRestored(item_id=command.item_id, branch=item.branch, depth=item.depth, inherited=item.inherited)
    unpinned = ItemUnpinned(item_id=command.item_id, pinned=state.pinned)
    return (restored, unpinned) if command.item_id in state.retracted_pins else (restored,)


def _pin(state: Conversation, command: PinItem, item: KnownItem | None) -> tuple[Event, ...]:
    if item is None or item.retracted:
        raise ItemNotFound(command.item_id)
    if command.item_id in state.pinned:
        return ()
    if len(state.pinned) >= MAX_PINS:
        raise TooManyPins(MAX_PINS)
    pinned = (*state.pinned, command.item_id)
    return (ItemPinned(item_id=command.item_id, branch=item.branch, depth=item.depth, pinned=pinned),)


def _unpin(state: Conversation, command: UnpinItem, item: KnownItem | None) -> tuple[Event, ...]:
    if command.item_id not in state.pinned:
        if item is None or item.retracted:
            raise ItemNotFound(command.item_id)
        return ()
    pinned = tuple(item_id for item_id in state.pinned if item_id != command.item_id)
    return (ItemUnpinned(item_id=command.item_id, pinned=pinned),)


def _describe(state: Conversation, command: DescribeConversation) -> tuple[Event, ...]:
    changes = {
        name: value
        for name in ("title", "instructions", "metadata", "context_policy")
        if (value := getattr(command, name)) is not UNSET and value != getattr(state, name)
    }
    if state.title_by == "model" and command.title is not UNSET:
        changes["title"] = command.title  # even an equal title, because now a person has set it
    return (ConversationDescribed(**changes),) if changes else ()


def _share(state: Conversation, command: ShareConversation) -> tuple[Event, ...]:
    if command.share in state.shares:
        return ()
    if command.share.subject == state.owner:
        raise SharedWithOwner(state.id)
    others = tuple(share for share in state.shares if share.subject != command.share.subject)
    if len(others) >= MAX_SHARES:
        raise TooManyShares(MAX_SHARES)
    return (ConversationShared(shares=(*others, command.share)),)


def _unshare(state: Conversation, command: UnshareConversation) -> tuple[Event, ...]:
    remaining = tuple(share for share in state.shares if share.subject != command.subject)
    if remaining == state.shares:
        raise ShareNotFound(state.id)
    return (ConversationUnshared(shares=remaining),)


def _describe_reply(command: DescribeReply, reply: KnownItem | None) -> tuple[Event, ...]:
    if reply is None or reply.retracted:
        raise ResponseNotFound(command.response_id)
    return (ReplyDescribed(response_id=command.response_id, metadata=command.metadata),)


def _change_summary(
    state: Conversation, command: CompactContext | UndoCompaction | RedoCompaction
) -> tuple[Event, ...]:
    if command.read_version < max(state.summarized_at, state.retracted_at):
        raise SummaryHasChanged(state.id)
    match command:
        case CompactContext():
            if not takes(state.path, command.branch, command.depth):
                raise SummaryHasChanged(state.id)
            if command.depth > state.depth:
                raise HistoryLost(state.id)
            return (ContextCompacted(**{name: getattr(command, name) for name in ContextCompacted.__struct_fields__}),)
        case _ if command.read_version < state.moved_at:
            raise SummaryHasChanged(state.id)
        case UndoCompaction():
            if not command.undone:
                raise NothingToUndo(state.id, "undo")
            return (CompactionUndone(active=command.active, undone=command.undone),)
        case RedoCompaction():
            if not command.active:
                raise NothingToUndo(state.id, "redo")
            return (CompactionRedone(active=command.active),)
