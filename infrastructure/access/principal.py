"""The principal: who sends a request (a subject of a tenant), and what it may do. Every command and every query receives one."""

from typing import Final, Literal

from msgspec import Struct

from domain.access import Actor

Scope = Literal["read", "write", "reply", "audit", "admin", "act_as"]
"""What a credential allows:

read    read conversations, items, responses, usage and models
write   create, change and delete them
reply   ask a model
audit   see content that was deleted, where the log still has it
admin   do everything above except `audit`, in every conversation of the tenant; manage API keys
act_as  name the end user in `X-Subject`
"""

SCOPES: Final[frozenset[Scope]] = frozenset({"read", "write", "reply", "audit", "admin", "act_as"})
_OF_ADMIN: Final[frozenset[Scope]] = frozenset({"read", "write", "reply"})


class Principal(Struct, frozen=True):
    """Who sends a request. `tenant` owns the data: every read for a request names it. `subject` is recorded with every event that it causes.

    `key_id`: the id of the API key that the request came with; None if it came with a token, or without a credential.
    """

    tenant: str
    subject: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the principal has this scope, directly or because `admin` includes it."""
        return scope in self.scopes or ("admin" in self.scopes and scope in _OF_ADMIN)

    @property
    def finds_deleted(self) -> bool:
        """Whether the principal gets the audit trail of deleted conversations and responses.

        While AUTH_MODE is `none` nobody gets it, because there is no login.
        """
        return self.may("audit") and self != ANONYMOUS

    @property
    def actor(self) -> Actor:
        """The principal, as the rules of a conversation see it."""
        return Actor(self.subject, is_admin="admin" in self.scopes)


ANONYMOUS: Final = Principal("default", "anonymous", SCOPES)
"""The sender of every request while AUTH_MODE is `none`, unless the request names a user in `X-Subject`."""
