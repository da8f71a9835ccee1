"""Who may do what with one conversation. Pure."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from domain.commands import (
    CancelReply,
    Command,
    CompleteReply,
    DeleteConversation,
    FailReply,
    GiveFeedback,
    InterruptReply,
    ReadQueueState,
    ShareConversation,
    UnshareConversation,
    WithdrawFeedback,
)
from domain.conversation import Conversation
from domain.errors import ConversationNotFound, NotAllowed
from domain.events import Share

Role = Literal["owner", "writer", "reader"]

_OWNERS_COMMANDS = (ShareConversation, UnshareConversation, DeleteConversation)
_READERS_COMMANDS = (GiveFeedback, WithdrawFeedback)
_OF_THE_STORE = (CompleteReply, FailReply, CancelReply, InterruptReply, ReadQueueState)
"""The store sends these commands itself, without a check of roles. A reply's end is recorded even if its sender's share was withdrawn."""


class Actor(Struct, frozen=True):
    """Who sends a command. `is_admin`: has the role of the owner in every conversation of the tenant."""

    subject: str
    is_admin: bool = False


def role_of(owner: str | None, shares: Iterable[Share], actor: Actor) -> Role | None:
    """None if the actor may not know that the conversation exists."""
    if actor.is_admin or actor.subject == owner:
        return "owner"
    roles = {share.role for share in shares if share.subject in (None, actor.subject)}
    return "writer" if "writer" in roles else "reader" if roles else None


def check_allowed(state: Conversation, command: Command, actor: Actor) -> None:
    """Raises ConversationNotFound if the conversation is deleted or not visible to the actor, and NotAllowed."""
    if isinstance(command, _OF_THE_STORE):
        return
    role = role_of(state.owner, state.shares, actor)
    if role is None or state.status == "deleted":
        raise ConversationNotFound(state.id)
    if isinstance(command, _READERS_COMMANDS):
        return
    if role == "reader" or (role == "writer" and isinstance(command, _OWNERS_COMMANDS)):
        raise NotAllowed(state.id, role)
