"""An event as it was recorded, and the record of an event that this code cannot read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

from msgspec import Struct

from domain.events import Event
from infrastructure.event_log.codec import UnreadableEvent, decode
from infrastructure.event_log.incarnation import INCARNATION, LogPosition, StreamVersion
from infrastructure.ids import conversation_id as conversation_id_of


class Recorded(Struct, frozen=True, kw_only=True):
    """`subject`: who caused the event. `chain_hash`: in hex. `owner`: empty if the reader did not look it up."""

    position: int
    conversation_id: str
    version: int
    tenant: str
    recorded_at: datetime
    subject: str
    correlation_id: str
    event: Event
    chain_hash: str = ""
    incarnation: str = ""
    owner: str = ""

    @property
    def topic(self) -> str:
        return self.event.topic

    @property
    def log_position(self) -> LogPosition:
        return LogPosition(self.position, self.chain_hash, self.incarnation)

    @property
    def stream_version(self) -> StreamVersion:
        return StreamVersion(self.version, self.chain_hash, self.incarnation)


class UnreadableRecord(Struct, frozen=True, kw_only=True):
    """`event` raises UnreadableEvent."""

    position: int
    conversation_id: str
    version: int
    tenant: str
    recorded_at: datetime
    subject: str
    correlation_id: str
    topic: str
    problem: str
    chain_hash: str = ""
    incarnation: str = ""
    owner: str = ""

    @property
    def log_position(self) -> LogPosition:
        return LogPosition(self.position, self.chain_hash, self.incarnation)

    @property
    def event(self) -> Event:
        raise UnreadableEvent(self.problem)


Logged = Recorded | UnreadableRecord

_COLUMNS: Final[LiteralString] = (
    "notification_id, originator_id, originator_version, tenant_id, recorded_at, subject, correlation_id, topic, state, chain_hash"
)
COLUMNS: Final[LiteralString] = f"{_COLUMNS}, {INCARNATION} AS incarnation, '' AS owner"

_OWNER: Final[LiteralString] = (
    "(SELECT started.subject FROM events AS started"
    " WHERE started.originator_id = events.originator_id AND started.originator_version = 1 AND started.tenant_id = events.tenant_id)"
)
COLUMNS_WITH_OWNER: Final[LiteralString] = f"{_COLUMNS}, {INCARNATION} AS incarnation, coalesce({_OWNER}, '') AS owner"

COLUMNS_OF_SUBQUERY: Final[LiteralString] = f"{_COLUMNS}, incarnation, owner"

LoggedRow = tuple[int, UUID, int, str, datetime, str, str, str, bytes, bytes, str, str]


def as_logged(row: LoggedRow) -> Logged:
    """Returns an UnreadableRecord if this code cannot read the event."""
    (
        position,
        stream_id,
        version,
        tenant,
        recorded_at,
        subject,
        correlation_id,
        topic,
        state,
        chain_hash,
        incarnation,
        owner,
    ) = row
    try:
        event = decode(topic, state)
    except UnreadableEvent as error:
        return UnreadableRecord(
            position=position,
            conversation_id=conversation_id_of(stream_id),
            version=version,
            tenant=tenant,
            recorded_at=recorded_at,
            subject=subject,
            correlation_id=correlation_id,
            topic=topic,
            problem=str(error),
            chain_hash=chain_hash.hex(),
            incarnation=incarnation,
            owner=owner,
        )
    return Recorded(
        position=position,
        conversation_id=conversation_id_of(stream_id),
        version=version,
        tenant=tenant,
        recorded_at=recorded_at,
        subject=subject,
        correlation_id=correlation_id,
        event=event,
        chain_hash=chain_hash.hex(),
        incarnation=incarnation,
        owner=owner,
    )


def recorded_of(row: LoggedRow) -> Recorded:
    """Raises UnreadableEvent."""
    logged = as_logged(row)
    if isinstance(logged, UnreadableRecord):
        raise UnreadableEvent(logged.problem)
    return logged


def readable(page: Sequence[Logged]) -> list[Recorded]:
    """The events before the first unreadable one. Raises UnreadableEvent if the page begins with one."""
    events: list[Recorded] = []
    for logged in page:
        if isinstance(logged, UnreadableRecord):
            if not events:
                raise UnreadableEvent(logged.problem)
            break
        events.append(logged)
    return events
