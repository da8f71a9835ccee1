"""A reply as the log has it: its request and its end."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from context.last_shown import with_last_shown
from domain.errors import ResponseNotFound
from domain.events import (
    REPLY_ENDS,
    InputItem,
    ItemAppended,
    ItemRestored,
    ItemRetracted,
    ReplyCompleted,
    ReplyDeleted,
    ReplyDescribed,
    ReplyEnd,
    ReplyQueued,
)
from domain.items import as_output
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from replies.response_from_events import Request, error_of, partial_output, response_of, status_of
from replies.response_shape import Status


class Reader(Protocol):
    """Reads what a record is made of. Commands read with a ConversationReader, queries with a PrincipalLog."""

    async def head(self, conversation_id: str) -> Head | None:
        """None when the conversation was never started."""

    async def readable_head(self, conversation_id: str) -> Head | None:
        """None also if the conversation was deleted, or may not be read."""

    async def items(self, conversation_id: str, item_ids: Sequence[str]) -> list[Recorded]:
        """The events that have one of these ids as row key, by ascending version."""


class Record(Struct, frozen=True, kw_only=True):
    """What the log has of a reply.

    `requested`: a ReplyQueued if the reply has not had its turn. `described_event`: the newest change of the metadata.
    `retracted`: the ids of items in `output` that are not in the Response.
    """

    conversation_id: str
    head: Head
    """The conversation's last event when the record was read, or shortly before."""
    request_event: Recorded
    requested: Request
    end_event: Recorded | None = None
    end: ReplyEnd | None = None
    described_event: Recorded | None = None
    output: tuple[InputItem, ...] = ()
    retracted: frozenset[str] = frozenset()

    @property
    def response_id(self) -> str:
        return self.requested.response_id

    @property
    def last(self) -> Recorded:
        events = (self.request_event, self.end_event, self.described_event)
        return max((event for event in events if event is not None), key=lambda event: event.version)

    @property
    def metadata(self) -> dict[str, str] | None:
        """None if the metadata was not changed after the request."""
        event = None if self.described_event is None else self.described_event.event
        return event.metadata if isinstance(event, ReplyDescribed) else None

    @property
    def status(self) -> Status:
        return "queued" if self.end is None and isinstance(self.requested, ReplyQueued) else status_of(self.end)

    def response(self) -> bytes:
        end = self.end
        facts: dict[str, Any] = {}
        if isinstance(end, ReplyCompleted):
            facts = {
                "model": end.model,
                "usage": end.usage,
                "finish_reason": end.finish_reason,
                "service_tier": end.service_tier,
                "cost": end.cost,
            }
        elif end is not None:
            facts = {"error": error_of(end)}
        if self.end_event is not None:
            facts["completed_at"] = self.end_event.recorded_at.timestamp()
        return response_of(
            self.requested,
            self.conversation_id,
            self.status,
            metadata=self.metadata,
            output=[
                as_output(stored.item_id, stored.item) for stored in self.output if stored.item_id not in self.retracted
            ],
            **facts,
        )


class ResponseReader(Reader, Protocol):
    async def conversation_of(self, response_id: str) -> str | None:
        """None if there is no such response."""


async def is_lost(reader: Reader, conversation_id: str, response_id: str) -> bool:
    """Whether the log no longer has the request, because the log moved back to an earlier state."""
    head = await reader.head(conversation_id)
    if head is not None and head.deleted:
        return False
    return not await reader.items(conversation_id, [response_id])


async def find_record(reader: ResponseReader, response_id: str) -> Record:
    """Raises ResponseNotFound also if the reply was deleted, or if the caller may not read it."""
    conversation_id = await reader.conversation_of(response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    return await read_record(reader, conversation_id, response_id)


async def read_record(reader: Reader, conversation_id: str, response_id: str) -> Record:
    """Raises ResponseNotFound, or LogMoved if the log has lost items of the reply."""
    head = await reader.readable_head(conversation_id)
    if head is None:
        raise ResponseNotFound(response_id)
    rows = await reader.items(conversation_id, [response_id])
    if not rows or isinstance(rows[-1].event, ReplyDeleted):
        raise ResponseNotFound(response_id)
    request_event = with_last_shown(rows)
    requested = request_event.event
    if not isinstance(requested, Request):
        raise ResponseNotFound(response_id)  # the row of the request was removed by hand
    record = Record(
        conversation_id=conversation_id,
        head=head,
        request_event=request_event,
        requested=requested,
        described_event=next((row for row in reversed(rows) if isinstance(row.event, ReplyDescribed)), None),
    )
    for row in rows:
        if isinstance(end := row.event, REPLY_ENDS):
            output, retracted = await _read_output(reader, conversation_id, end)
            return msgspec.structs.replace(record, end_event=row, end=end, output=output, retracted=retracted)
    return record


async def refreshed(reader: Reader, record: Record) -> Record:
    """Reads the record again only if the conversation's last event has changed. Raises as `read_record` does."""
    if await reader.head(record.conversation_id) == record.head:
        return record
    return await read_record(reader, record.conversation_id, record.response_id)


async def _read_output(
    reader: Reader, conversation_id: str, end: ReplyEnd
) -> tuple[tuple[InputItem, ...], frozenset[str]]:
    """The output items, and the ids of the items that are retracted now."""
    rest = () if isinstance(end, ReplyCompleted) else partial_output(end)
    if not end.output_ids:
        return rest, frozenset()
    events = [recorded.event for recorded in await reader.items(conversation_id, end.output_ids)]
    appended = {event.item_id: event.item for event in events if isinstance(event, ItemAppended)}
    if len(appended) < len(end.output_ids):
        raise LogMoved(f"the log no longer has all items of {end.response_id}")
    output = tuple(InputItem(item_id=item_id, item=appended[item_id]) for item_id in end.output_ids)
    newest = {event.item_id: event for event in events if isinstance(event, ItemRetracted | ItemRestored)}
    retracted = frozenset(item_id for item_id, event in newest.items() if isinstance(event, ItemRetracted))
    return (*output, *rest), retracted
