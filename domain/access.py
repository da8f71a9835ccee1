"""Who may do what with one conversation. Pure: the actor comes with the command, the owner and the shares are in the conversation's events."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from domain.commands import (
    CancelReply,
    Command,
    CompleteReply,
    DeleteConversation,
    FailReply,
    InterruptReply,
    ShareConversation,
    UnshareConversation,
)
from domain.conversation import Conversation
from domain.errors import ConversationNotFound, NotAllowed
from domain.events import Share

Role = Literal["owner", "writer", "reader"]

_OWNERS_COMMANDS = (ShareConversation, UnshareConversation, DeleteConversation)
_REPLY_ENDS = (CompleteReply, FailReply, CancelReply, InterruptReply)
"""The store sends these itself: the end of a reply is recorded, whatever happened to the shares while it ran. The route `cancel` checks the role."""


class Actor(Struct, frozen=True):
    """Who acts, within the conversation's tenant. `is_admin`: has the role of the owner in every conversation of the tenant."""

    subject: str
    is_admin: bool = False


def role_of(owner: str | None, shares: Iterable[Share], actor: Actor) -> Role | None:
    """The actor's role in a conversation; None if the actor may not know that it exists. `owner` None: not known."""
    if actor.is_admin or actor.subject == owner:
        return "owner"
    roles = {share.role for share in shares if share.subject in (None, actor.subject)}
    return "writer" if "writer" in roles else "reader" if roles else None


def check_allowed(state: Conversation, command: Command, actor: Actor) -> None:
    """Raises ConversationNotFound if the actor may not see the conversation, or it is deleted, and NotAllowed if the role does not allow the command."""
    if isinstance(command, _REPLY_ENDS):
        return
    role = role_of(state.owner, state.shares, actor)
    if role is None or state.status == "deleted":
        raise ConversationNotFound(state.id)
    if role == "reader" or (role == "writer" and isinstance(command, _OWNERS_COMMANDS)):
        raise NotAllowed(state.id, role)
