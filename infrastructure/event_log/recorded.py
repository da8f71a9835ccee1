"""An event as it was recorded, and what stands for one that this code cannot read."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from domain.events import Event
from infrastructure.event_log.codec import UnreadableEvent, decode
from infrastructure.ids import conversation_id as conversation_id_of


class Recorded(Struct, frozen=True, kw_only=True):
    """An event with where, when and by whom it was recorded."""

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
        """What kind of event it is."""
        return self.event.topic


class UnreadableRecord(Struct, frozen=True, kw_only=True):
    """In the place of a Recorded: an event that this code can not read. Whoever asks for it gets UnreadableEvent."""

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
        """There is none. Raises UnreadableEvent."""
        raise UnreadableEvent(self.problem)


Logged = Recorded | UnreadableRecord
"""What is in the log at one position."""


_Row = tuple[int, UUID, int, str, datetime, str, str, str, bytes]


def recorded_of(row: _Row) -> Recorded:
    """The event of a row with these columns, in this order. Raises UnreadableEvent."""
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


def as_logged(row: _Row) -> Logged:
    """What a row with these columns, in this order, holds."""
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


def readable(page: list[Logged]) -> list[Recorded]:
    """What comes before the first event that can not be read. Raises UnreadableEvent when that is the very first."""
    readable: list[Recorded] = []
    for each in page:
        if isinstance(each, UnreadableRecord):
            if not readable:
                raise UnreadableEvent(each.problem)
            break
        readable.append(each)
    return readable
