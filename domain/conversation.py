"""The state that commands are decided on, and how each event changes it.

The state holds no item bodies and no map of all items, so a conversation of 100,000 items costs the same as one of ten. `evolve` checks no
rules, so a rule that becomes stricter later does not make an old conversation unreadable.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from domain.events import (
    REPLY_ENDS,
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ContextPolicy,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationShared,
    ConversationStarted,
    ConversationUnshared,
    Event,
    FeedbackGiven,
    FeedbackWithdrawn,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    Share,
    joined_ids,
)

MAX_UNDO_STEPS = 16
"""How many compactions can be undone."""


class KnownSummary(Struct, frozen=True, gc=False):
    """A summary: the version of its ContextCompacted, and the depth of the last item that it covers."""

    version: int
    depth: int


class Conversation(Struct, frozen=True, kw_only=True, gc=False):
    """The state of a conversation.

    head, depth   id and depth of the active branch's last item; None and 0 if it has none
    running       ids of responses in progress
    queued        ids of responses that wait for their turn, the next one first
    interrupting  the waiting response that stops the running one; None if there is none
    summaries     the summaries that can be undone. The last one is active, and each includes the one before
    undone        the summaries that can be redone, the next one first. That one includes the active summary
    items         how many of the conversation's own items are not retracted
    replies       how many responses are not deleted
    retracted_at  the version at which an item was last retracted or restored, 0 for none
    """

    id: str
    tenant: str
    owner: str
    version: int
    family: str
    status: Literal["active", "ended", "deleted"] = "active"
    title: str | None = None
    instructions: str | None = None
    metadata: dict[str, str] = {}
    context_policy: ContextPolicy = ContextPolicy()
    listed: bool = True
    archived: bool = False
    branch: int = 0
    head: str | None = None
    depth: int = 0
    running: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    interrupting: str | None = None
    pinned: tuple[str, ...] = ()
    summaries: tuple[KnownSummary, ...] = ()
    undone: tuple[KnownSummary, ...] = ()
    items: int = 0
    replies: int = 0
    retracted_at: int = 0
    shares: tuple[Share, ...] = ()

    @property
    def summary(self) -> int:
        """The version of the active ContextCompacted; 0 for none."""
        return self.summaries[-1].version if self.summaries else 0


class KnownItem(Struct, frozen=True, kw_only=True):
    """The state of one item or response that a command names.

    For a response, `branch` and `depth` are unused, `retracted` means deleted, and `item_ids` are the items that joined
    the conversation with it. `inherited`: the item belongs to a conversation that this one comes from. Then `branch` is 0.
    `feedback`: for the key of a feedback, what was given last.
    """

    branch: int = 0
    depth: int = 0
    inherited: bool = False
    retracted: bool = False
    item_ids: tuple[str, ...] = ()
    copy_of: str | None = None
    feedback: FeedbackGiven | None = None


def evolve(  # noqa: C901, PLR0911, PLR0912 - it is a table
    state: Conversation | None, event: Event
) -> Conversation:
    """The state after `event`. Raises ValueError if `state` is None and the event is not a ConversationStarted."""
    if isinstance(event, ConversationStarted):
        return Conversation(
            id=event.conversation_id,
            tenant=event.tenant,
            owner=event.owner,
            version=1,
            family=event.family,
            title=event.title,
            instructions=event.instructions,
            metadata=event.metadata,
            context_policy=event.context_policy,
            listed=event.listed,
            head=event.forked_from.item_id if event.forked_from else None,
            depth=event.forked_from.depth if event.forked_from else 0,
            pinned=event.pinned,
        )
    if state is None:
        raise ValueError(f"The first event of a stream is {event.topic}, not {ConversationStarted.topic}")
    version = state.version + 1
    match event:
        case ItemAppended():
            head = {"branch": event.branch, "head": event.item_id, "depth": event.depth}
            return replace(state, version=version, items=state.items + 1, **head)
        case ConversationDescribed():
            changes = {
                name: value
                for name in ("title", "instructions", "metadata", "context_policy", "listed", "archived")
                if (value := getattr(event, name)) is not UNSET
            }
            return replace(state, version=version, **changes)
        case ReplyQueued() if event.interrupts:
            queue = {"queued": (event.response_id, *state.queued), "interrupting": event.response_id}
            return replace(state, version=version, replies=state.replies + 1, **queue)
        case ReplyQueued():
            return replace(state, version=version, replies=state.replies + 1, queued=(*state.queued, event.response_id))
        case ReplyRequested():
            running = (*state.running, event.response_id)
            replies = state.replies + (not event.queued)
            return replace(_without_reply(state, event.response_id), version=version, running=running, replies=replies)
        case _ if isinstance(event, REPLY_ENDS):
            return replace(_without_reply(state, event.response_id), version=version)
        case ReplyDeleted():
            return replace(state, version=version, replies=state.replies - 1)
        case ItemRetracted():
            return replace(
                state,
                version=version,
                pinned=_without(state.pinned, event.item_id),
                summaries=tuple(summary for summary in state.summaries if summary.depth < event.depth),
                undone=tuple(summary for summary in state.undone if summary.depth < event.depth),
                items=state.items - (not event.inherited),
                retracted_at=version,
            )
        case ItemRestored():
            return replace(
                state,
                version=version,
                summaries=tuple(summary for summary in state.summaries if summary.depth < event.depth),
                undone=tuple(summary for summary in state.undone if summary.depth < event.depth),
                items=state.items + (not event.inherited),
                retracted_at=version,
            )
        case ItemPinned() | ItemUnpinned():
            return replace(state, version=version, pinned=event.pinned)
        case ContextCompacted():
            included = (summary for summary in state.summaries if summary.version <= event.replaces)
            summaries = (*included, KnownSummary(version, event.depth))[-MAX_UNDO_STEPS:]
            return replace(state, version=version, summaries=summaries, undone=())
        case CompactionUndone():
            undone = (*state.summaries[-1:], *state.undone)
            return replace(state, version=version, summaries=state.summaries[:-1], undone=undone)
        case CompactionRedone():
            summaries = (*state.summaries, *state.undone[:1])
            return replace(state, version=version, summaries=summaries, undone=state.undone[1:])
        case ConversationShared() | ConversationUnshared():
            return replace(state, version=version, shares=event.shares)
        case ConversationEnded():
            return replace(state, version=version, status="ended")
        case ConversationReopened():
            return replace(state, version=version, status="active")
        case ConversationDeleted():  # caches and snapshots of the state must not keep what was deleted
            return replace(state, version=version, status="deleted", title=None, instructions=None, metadata={})
        case _:
            return replace(state, version=version)


def evolve_item(item: KnownItem | None, event: Event) -> KnownItem | None:
    """The state of one item or response after an event whose `row_key` is its id."""
    match event:
        case ItemAppended():
            return KnownItem(branch=event.branch, depth=event.depth, copy_of=event.copy_of)
        case ReplyQueued() | ReplyRequested():
            return KnownItem()
        case ReplyCompleted() | ReplyCancelled() | ReplyInterrupted() if item is not None:
            return replace(item, item_ids=joined_ids(event))
        case ItemRetracted(inherited=True):
            return KnownItem(branch=event.branch, depth=event.depth, inherited=True, retracted=True)
        case ItemRetracted() | ReplyDeleted() if item is not None:
            return replace(item, retracted=True)
        case ItemRestored() if item is not None:
            return replace(item, retracted=False)
        case FeedbackGiven():
            return KnownItem(feedback=event)
        case FeedbackWithdrawn():
            return None
        case _:
            return item


def _without_reply(state: Conversation, response_id: str) -> Conversation:
    """The state without this reply: it neither runs nor waits any more."""
    return replace(
        state,
        running=_without(state.running, response_id),
        queued=_without(state.queued, response_id),
        interrupting=None if state.interrupting == response_id else state.interrupting,
    )


def _without(ids: tuple[str, ...], removed: str) -> tuple[str, ...]:
    return tuple(remaining for remaining in ids if remaining != removed)


def fold(events: Iterable[Event]) -> Conversation | None:
    """The state after `events`, in order. None if there are none."""
    state: Conversation | None = None
    for event in events:
        state = evolve(state, event)
    return state
