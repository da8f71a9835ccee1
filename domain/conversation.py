"""The state that commands are decided on, and how each event changes it.

The state's size does not grow with the number of items. `evolve` checks no rules, because a stricter rule must not
make an old conversation unreadable.
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
    Fork,
    HeadMoved,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    Leaf,
    PathBranch,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    Share,
    joined_ids,
)
from domain.paths import FIRST_BRANCH, is_open


class RunningReply(Struct, frozen=True, gc=False):
    """A reply that was requested and has not ended.

    leaf        the item after which the reply's items open a branch; None: the items are appended at the head
    names_leaf  whether the request named the leaf. If not, the leaf is the head before it was moved
    head        the head when the reply was requested, if the request named the leaf
    """

    response_id: str
    leaf: Leaf | None = None
    names_leaf: bool = False
    head: str | None = None


class Conversation(Struct, frozen=True, kw_only=True, gc=False):
    """The state of one conversation. In fields that end with `_at`, 0 means never.

    head, depth   the active path's last item
    branches      how many branches were opened besides the first one
    queued        responses that wait for their turn, the next one first
    interrupting  the waiting response that stops the running one
    items         how many of its own items are not retracted
    replies       how many responses are not deleted
    retracted_at  the version at which an item was last retracted or restored
    summarized_at the version at which a summary was last made, undone or redone
    title_items   the items that a model's title was made from; empty unless a model wrote the title
    retracted_pins  items that the newest event about pins lists, and that are retracted
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
    path: tuple[PathBranch, ...] = FIRST_BRANCH
    branches: int = 0
    moved_at: int = 0
    running: tuple[RunningReply, ...] = ()
    queued: tuple[str, ...] = ()
    interrupting: str | None = None
    pinned: tuple[str, ...] = ()
    retracted_pins: tuple[str, ...] = ()
    items: int = 0
    replies: int = 0
    retracted_at: int = 0
    summarized_at: int = 0
    shares: tuple[Share, ...] = ()
    forked_from: Fork | None = None
    title_items: tuple[str, ...] = ()

    @property
    def title_by(self) -> Literal["person", "model"] | None:
        if self.title is None:
            return None
        return "model" if self.title_items else "person"

    def reply(self, response_id: str) -> RunningReply | None:
        return next((reply for reply in self.running if reply.response_id == response_id), None)

    @property
    def at_head(self) -> tuple[str, ...]:
        """Responses in progress that will be appended at the head: at most one."""
        return tuple(reply.response_id for reply in self.running if reply.leaf is None)

    @property
    def awaited_after(self) -> frozenset[str | None]:
        """Replies that run or wait will be appended after these items. None: at the beginning."""
        leaves = (reply.leaf for reply in self.running)
        running = (self.head if leaf is None else leaf.item_id for leaf in leaves)
        return frozenset((*running, self.head) if self.queued else running)


class KnownItem(Struct, frozen=True, kw_only=True):
    """The state of an item, response or feedback.

    For a response, `retracted` means deleted, and `item_ids` are the items that joined with it. For an inherited item, `branch` is 0.
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
    """Raises ValueError if the first event is not a ConversationStarted."""
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
            forked_from=event.forked_from,
        )
    if state is None:
        raise ValueError(f"The first event of a stream is {event.topic}, not {ConversationStarted.topic}")
    version = state.version + 1
    match event:
        case ItemAppended():
            return _with_item(state, version, event)
        case HeadMoved():
            return _with_head(state, version, event)
        case ConversationDescribed():
            changes = {
                name: value
                for name in ("title", "instructions", "metadata", "context_policy", "listed", "archived")
                if (value := getattr(event, name)) is not UNSET
            }
            if event.title is not UNSET:
                changes["title_items"] = event.title_items
            return replace(state, version=version, **changes)
        case ReplyQueued() if event.interrupts:
            queue = {"queued": (event.response_id, *state.queued), "interrupting": event.response_id}
            return replace(state, version=version, replies=state.replies + 1, **queue)
        case ReplyQueued():
            return replace(state, version=version, replies=state.replies + 1, queued=(*state.queued, event.response_id))
        case ReplyRequested():
            head = state.head if event.after else None
            reply = RunningReply(event.response_id, event.after, names_leaf=event.after is not None, head=head)
            running = (*state.running, reply)
            replies = state.replies + (not event.queued)
            return replace(_without_reply(state, event.response_id), version=version, running=running, replies=replies)
        case _ if isinstance(event, REPLY_ENDS):
            return replace(_without_reply(state, event.response_id), version=version)
        case ReplyDeleted():
            return replace(state, version=version, replies=state.replies - 1)
        case ItemRetracted():
            pinned = _without(state.pinned, event.item_id)
            is_pin = pinned != state.pinned
            return replace(
                state,
                version=version,
                pinned=pinned,
                retracted_pins=(*state.retracted_pins, event.item_id) if is_pin else state.retracted_pins,
                items=state.items - (not event.inherited),
                retracted_at=version,
            )
        case ItemRestored():  # in old logs, an ItemUnpinned may be missing after it
            is_pin = event.item_id in state.retracted_pins
            return replace(
                state,
                version=version,
                pinned=(*state.pinned, event.item_id) if is_pin else state.pinned,
                retracted_pins=_without(state.retracted_pins, event.item_id),
                items=state.items + (not event.inherited),
                retracted_at=version,
            )
        case ItemPinned() | ItemUnpinned():
            return replace(state, version=version, pinned=event.pinned, retracted_pins=())
        case ContextCompacted() | CompactionUndone() | CompactionRedone():
            return replace(state, version=version, summarized_at=version)
        case ConversationShared() | ConversationUnshared():
            return replace(state, version=version, shares=event.shares)
        case ConversationEnded():
            return replace(state, version=version, status="ended")
        case ConversationReopened():
            return replace(state, version=version, status="active")
        case ConversationDeleted():  # caches and snapshots must not keep what was deleted
            return replace(
                state, version=version, status="deleted", title=None, title_items=(), instructions=None, metadata={}
            )
        case _:
            return replace(state, version=version)


def evolve_item(item: KnownItem | None, event: Event) -> KnownItem | None:
    """The state of an item, response or feedback after an event with its row key. None: it has no state."""
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
        case ItemRestored(inherited=True):  # its own conversation decides whether it is deleted
            return None
        case ItemRestored() if item is not None:
            return replace(item, retracted=False)
        case FeedbackGiven():
            return KnownItem(feedback=event)
        case FeedbackWithdrawn():
            return None
        case _:
            return item


def _with_item(state: Conversation, version: int, event: ItemAppended) -> Conversation:
    opens = event.branch == version
    counts = {"items": state.items + 1, "branches": state.branches + opens}
    if event.aside or (opens and (event.parent_id != state.head or _has_leaf(state, event))):
        return replace(state, version=version, **counts)
    head = {"branch": event.branch, "head": event.item_id, "depth": event.depth}
    path = (*event.leaves, PathBranch(event.branch)) if opens else state.path
    return replace(state, version=version, path=path, **counts, **head)


def _has_leaf(state: Conversation, event: ItemAppended) -> bool:
    """Whether the item's reply has a leaf. If so, its first item does not move the head. The HeadMoved after it does."""
    reply = state.reply(event.response_id) if event.response_id else None
    return reply is not None and reply.leaf is not None


def _with_head(state: Conversation, version: int, event: HeadMoved) -> Conversation:
    """A reply that would be appended at the old head gets the old head as its leaf, until the old head is the head again."""
    if event.item_id == state.head:
        return replace(state, version=version, moved_at=version, path=event.path)

    def with_leaf(reply: RunningReply) -> RunningReply:
        if reply.leaf is None:
            return replace(reply, leaf=leaf_at_head(state))
        is_back = not reply.names_leaf and reply.leaf.item_id == event.item_id
        return replace(reply, leaf=None) if is_back else reply

    head = {"head": event.item_id, "depth": event.depth, "branch": event.path[-1].branch, "path": event.path}
    return replace(state, version=version, moved_at=version, running=tuple(map(with_leaf, state.running)), **head)


def leaf_at_head(state: Conversation) -> Leaf:
    path = state.path
    if is_open(path):
        path = (*path[:-1], PathBranch(path[-1].branch, state.depth, state.version))
    return Leaf(state.head, state.depth, path)


def _without_reply(state: Conversation, response_id: str) -> Conversation:
    return replace(
        state,
        running=tuple(reply for reply in state.running if reply.response_id != response_id),
        queued=_without(state.queued, response_id),
        interrupting=None if state.interrupting == response_id else state.interrupting,
    )


def _without(ids: tuple[str, ...], removed: str) -> tuple[str, ...]:
    return tuple(remaining for remaining in ids if remaining != removed)


def fold(events: Iterable[Event]) -> Conversation | None:
    state: Conversation | None = None
    for event in events:
        state = evolve(state, event)
    return state
