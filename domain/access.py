"""Who may do what with one conversation. Pure. The caller passes the actor. The owner and the shares are in the conversation's events."""

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
"""Commands for which the log checks no role. So the end of a reply is recorded even if a share was withdrawn while the reply ran.

The store sends them itself. The route `cancel` checks the role before it stops the reply.
"""


class Actor(Struct, frozen=True):
    """Who sends a command, within the conversation's tenant. `is_admin`: the actor has the role of the owner in every conversation of the tenant."""

    subject: str
    is_admin: bool = False


def role_of(owner: str | None, shares: Iterable[Share], actor: Actor) -> Role | None:
    """The actor's role in a conversation; None if the actor may not know that it exists. `owner` None: the owner is not known."""
    if actor.is_admin or actor.subject == owner:
        return "owner"
    roles = {share.role for share in shares if share.subject in (None, actor.subject)}
    return "writer" if "writer" in roles else "reader" if roles else None


def check_allowed(state: Conversation, command: Command, actor: Actor) -> None:
    """Raises ConversationNotFound if the conversation is deleted or the actor may not see it. Raises NotAllowed if the role does not allow the command.

    The commands in `_OF_THE_STORE` are not checked.
    """
    if isinstance(command, _OF_THE_STORE):
        return
    role = role_of(state.owner, state.shares, actor)
    if role is None or state.status == "deleted":
        raise ConversationNotFound(state.id)
    if isinstance(command, _READERS_COMMANDS):
        return
    if role == "reader" or (role == "writer" and isinstance(command, _OWNERS_COMMANDS)):
        raise NotAllowed(state.id, role)
