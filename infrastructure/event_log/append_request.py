"""The request that a handler gives to the log, the result that it gets back, and the errors of an append."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from domain.commands import Command, RequestReply, StartConversation
from domain.conversation import Conversation
from domain.events import Event
from infrastructure.access.principal import Principal

StreamName = tuple[str, str]
"""The tenant and the conversation id. A conversation of another tenant is never found, even if a request names it."""


class IdempotencyKey(Struct, frozen=True):
    """A client's `Idempotency-Key` and the SHA-256 of the request that came with it."""

    key: str
    fingerprint: bytes


class Appended(Struct, frozen=True, kw_only=True):
    """The result of a command whose events are durable. `events` is empty if the command changed nothing, or if the result is `replayed`.

    `position`: the position of the conversation's last event. `answer`: the body that is stored with the idempotency key, if there is a key.

    `replayed`: an earlier request used the same key, and all values are those of its result. Then `conversation` may lack everything except
    its id, tenant and version.
    """

    conversation: Conversation
    version: int
    position: int
    recorded_at: datetime
    events: tuple[Event, ...] = ()
    answer: bytes | None = None
    replayed: bool = False


class AppendRequest(Struct, frozen=True, kw_only=True):
    """One command on one conversation. `if_match`: the conversation's versions on which it may be decided; None allows any.

    `answer` renders the body to store with `idempotency`. `size`: about how many bytes of events will result.
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
        """The conversation and the idempotency key. Two requests that have one of these in common depend on each other."""
        shared: set[tuple[str, ...]] = {self.stream_name}
        if self.idempotency is not None:
            shared.add((self.principal.tenant, self.principal.subject, self.idempotency.key))
        return shared


def independent_of(requests: Sequence[AppendRequest], batch: Sequence[AppendRequest]) -> list[AppendRequest]:
    """The requests of the batch that depend on none of `requests`, neither directly nor through other requests of the batch."""
    shared = {name for request in requests for name in request.shared_with}
    independent = list(batch)
    while True:
        dependent = [request for request in independent if not shared.isdisjoint(request.shared_with)]
        if not dependent:
            return independent
        independent = [request for request in independent if shared.isdisjoint(request.shared_with)]
        shared.update(name for request in dependent for name in request.shared_with)


class VersionMismatch(Exception):
    """`If-Match` does not name `current`, the conversation's version. Nothing was appended."""

    def __init__(self, current: int) -> None:
        super().__init__(f"The conversation is at version {current}.")
        self.current = current


class KeyReused(Exception):
    """The idempotency key was used before with another request. Nothing was appended."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request.")


class LogUnavailable(Exception):
    """Postgres is down or too slow.

    If `outcome_unknown` is set, events may have been appended: repeat the request with the same idempotency key, or read the conversation
    before you repeat it. Otherwise nothing was appended.
    """

    def __init__(self, *, outcome_unknown: bool) -> None:
        super().__init__("The event store did not confirm the append.")
        self.outcome_unknown = outcome_unknown


class LogBusy(Exception):
    """Too many commands or reads are waiting, or the process is stopping. Nothing was appended."""

    def __init__(self, message: str = "Too many commands are waiting to be appended.") -> None:
        super().__init__(message)
