"""What a handler gives to the log, what it gets back, and the errors of an append."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from domain.commands import Command, RequestReply, StartConversation
from domain.conversation import Conversation
from domain.events import Event
from infrastructure.access.principal import Principal

StreamName = tuple[str, str]
"""(tenant, conversation id). So a conversation of another tenant is never found."""


class IdempotencyKey(Struct, frozen=True):
    """`fingerprint`: the SHA-256 of the request that came with the key."""

    key: str
    fingerprint: bytes


class Appended(Struct, frozen=True, kw_only=True):
    """The result of an append.

    position  the position of the conversation's last event
    events    empty if the command changed nothing, or if `replayed`
    answer    the body stored with the idempotency key
    replayed  all values are from an earlier request with the same key. `conversation` may lack everything but its id,
              tenant and version
    """

    conversation: Conversation
    version: int
    position: int
    recorded_at: datetime
    events: tuple[Event, ...] = ()
    answer: bytes | None = None
    replayed: bool = False


class AppendRequest(Struct, frozen=True, kw_only=True):
    """A command to append. `answer` renders the body to store with `idempotency`.

    `if_match`: the versions on which the command may be decided; None allows any. `size`: estimated bytes of events.
    """

    principal: Principal
    conversation_id: str
    command: Command
    command_id: UUID
    correlation_id: str
    size: int = 0
    if_match: frozenset[int] | None = None
    idempotency: IdempotencyKey | None = None
    answer: Callable[[Appended], bytes] | None = None

    @property
    def stream_name(self) -> StreamName:
        return self.principal.tenant, self.conversation_id

    @property
    def starts_conversation(self) -> bool:
        command = self.command
        return isinstance(command, StartConversation) or (
            isinstance(command, RequestReply) and command.start is not None
        )

    @property
    def shared_with(self) -> set[tuple[str, ...]]:
        """Two requests that share one of these names depend on each other."""
        shared: set[tuple[str, ...]] = {self.stream_name}
        if self.idempotency is not None:
            shared.add((self.principal.tenant, self.principal.subject, self.idempotency.key))
        return shared


def independent_of(requests: Sequence[AppendRequest], batch: Sequence[AppendRequest]) -> list[AppendRequest]:
    """The requests of the batch that depend on none of `requests`, directly or through others."""
    shared = {name for request in requests for name in request.shared_with}
    independent = list(batch)
    while True:
        dependent = [request for request in independent if not shared.isdisjoint(request.shared_with)]
        if not dependent:
            return independent
        independent = [request for request in independent if shared.isdisjoint(request.shared_with)]
        shared.update(name for request in dependent for name in request.shared_with)


class VersionMismatch(Exception):
    """`if_match` does not contain `current`, the conversation's version."""

    def __init__(self, current: int) -> None:
        super().__init__(f"The conversation is at version {current}.")
        self.current = current


class KeyReused(Exception):
    """The key was used with another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request.")


class LogUnavailable(Exception):
    """The event store did not confirm the append.

    `outcome_unknown`: events may have been appended. Repeat with the same idempotency key, or read the conversation first.
    """

    def __init__(self, *, outcome_unknown: bool) -> None:
        super().__init__("The event store did not confirm the append.")
        self.outcome_unknown = outcome_unknown


class LogBusy(Exception):
    """Too much is waiting, or the process is stopping. Nothing was appended."""

    def __init__(self, message: str = "Too many commands are waiting to be appended.") -> None:
        super().__init__(message)
