"""The state a command is decided on, and how each event changes it.

It holds no item's body and no map of all items: a conversation of 100,000 items costs what one of ten does.
`evolve` only assigns, so that a rule made stricter later can never make an old conversation unloadable.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from domain.events import (
    ContextPolicy,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationStarted,
    Event,
    ItemAppended,
    ItemRetracted,
    ReplyCompleted,
    ReplyFailed,
    ReplyRequested,
)


class Conversation(Struct, frozen=True, kw_only=True, gc=False):
    """`head` and `depth` are the last item's of the active branch; None and 0 while there is none."""

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
    branch: int = 0
    head: str | None = None
    depth: int = 0
    running: tuple[str, ...] = ()


class KnownItem(Struct, frozen=True, kw_only=True):
    """What the log says of one item that a command touches."""

    branch: int
    depth: int
    retracted: bool = False


def evolve(state: Conversation | None, event: Event) -> Conversation:
    """The conversation after `event`. The first event is a ConversationStarted; anything may follow."""
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
        )
    if state is None:
        raise ValueError(f"A stream began with {event.topic}, not with {ConversationStarted.topic}")
    version = state.version + 1
    match event:
        case ItemAppended():
            return replace(state, version=version, branch=event.branch, head=event.item_id, depth=event.depth)
        case ConversationDescribed():
            changes = {
                name: value
                for name in ("title", "instructions", "metadata", "context_policy")
                if (value := getattr(event, name)) is not UNSET
            }
            return replace(state, version=version, **changes)
        case ReplyRequested():
            return replace(state, version=version, running=(*state.running, event.response_id))
        case ReplyCompleted() | ReplyFailed():
            running = tuple(response for response in state.running if response != event.response_id)
            return replace(state, version=version, running=running)
        case ConversationEnded():
            return replace(state, version=version, status="ended")
        case ConversationReopened():
            return replace(state, version=version, status="active")
        case ConversationDeleted():
            return replace(state, version=version, status="deleted")
        case _:
            return replace(state, version=version)


def evolve_item(known: KnownItem | None, event: Event) -> KnownItem | None:
    """What is known of one item after an event that names it."""
    match event:
        case ItemAppended():
            return KnownItem(branch=event.branch, depth=event.depth)
        case ItemRetracted() if known is not None:
            return replace(known, retracted=True)
        case _:
            return known


def fold(events: Iterable[Event]) -> Conversation | None:
    """The state after all of `events`, in order; None when there are none."""
    state: Conversation | None = None
    for event in events:
        state = evolve(state, event)
    return state
