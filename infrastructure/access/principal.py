"""The principal: who sends a request, and what it may do."""

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
    """`tenant` owns the data. `subject` is recorded with every event. `key_id`: the request's API key; None without one."""

    tenant: str
    subject: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """`admin` includes some scopes."""
        return scope in self.scopes or ("admin" in self.scopes and scope in _OF_ADMIN)

    @property
    def finds_deleted(self) -> bool:
        """Whether the principal may see what was deleted. Without a login, nobody may."""
        return self.may("audit") and self != ANONYMOUS

    @property
    def actor(self) -> Actor:
        return Actor(self.subject, is_admin="admin" in self.scopes)


ANONYMOUS: Final = Principal("default", "anonymous", SCOPES)
"""The sender of every request while AUTH_MODE is `none`, unless `X-Subject` names a user."""
