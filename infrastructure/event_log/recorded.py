"""An event as it was recorded, and the record of an event that this code cannot read."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from domain.events import Event
from infrastructure.event_log.codec import UnreadableEvent, decode
from infrastructure.ids import conversation_id as conversation_id_of


class Recorded(Struct, frozen=True, kw_only=True):
    """An event with its position in the log, its version in the conversation, when it was recorded, and who caused it (`subject`)."""

    position: int
    conversation_id: str
    version: int
    tenant: str
    recorded_at: datetime
    subject: str
    correlation_id: str
    event: Event

    @property
    def topic(self) -> str:
        return self.event.topic


class UnreadableRecord(Struct, frozen=True, kw_only=True):
    """An event that this code cannot read. Its `event` raises UnreadableEvent."""

    position: int
    conversation_id: str
    version: int
    tenant: str
    recorded_at: datetime
    subject: str
    correlation_id: str
    topic: str
    problem: str

    @property
    def event(self) -> Event:
        raise UnreadableEvent(self.problem)


Logged = Recorded | UnreadableRecord
"""The event at one position, readable or not."""

COLUMNS = (
    "notification_id, originator_id, originator_version, tenant_id, recorded_at, subject, correlation_id, topic, state"
)
"""The columns of a `LoggedRow`, in order."""

LoggedRow = tuple[int, UUID, int, str, datetime, str, str, str, bytes]


def recorded_of(row: LoggedRow) -> Recorded:
    """The event of a row. Raises UnreadableEvent."""
    position, stream_id, version, tenant, recorded_at, subject, correlation_id, topic, state = row
    return Recorded(
        position=position,
        conversation_id=conversation_id_of(stream_id),
        version=version,
        tenant=tenant,
        recorded_at=recorded_at,
        subject=subject,
        correlation_id=correlation_id,
        event=decode(topic, state),
    )


def as_logged(row: LoggedRow) -> Logged:
    """The event of a row, or an UnreadableRecord."""
    try:
        return recorded_of(row)
    except UnreadableEvent as error:
        position, stream_id, version, tenant, recorded_at, subject, correlation_id, topic, _ = row
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
        )


def readable(page: Sequence[Logged]) -> list[Recorded]:
    """The events before the first unreadable one. Raises UnreadableEvent if that is the first of the page."""
    events: list[Recorded] = []
    for logged in page:
        if isinstance(logged, UnreadableRecord):
            if not events:
                raise UnreadableEvent(logged.problem)
            break
        events.append(logged)
    return events
