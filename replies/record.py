"""A reply as the log has it: what was asked, how it ended, its Response, and the events of its stream again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from domain.errors import ResponseNotFound
from domain.events import (
    REPLY_ENDS,
    InputItem,
    ItemAppended,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyEnd,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
)
from domain.items import as_output, from_stored
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import minted_seconds
from replies import output, stream_events
from replies.response_object import INCOMPLETE_REASONS, Status, response_object
from replies.stream_events import StreamEvent

INTERRUPTIONS: Mapping[str, str] = {
    "client_closed": "The client hung up.",
    "server_stopped": "The server was stopped.",
    "process_died": "The process that ran it went away.",
}
"""Why a reply was cut off, and how that is said."""


class Reader(Protocol):
    """What a record is read with: EventReader, or the query side's, whose look-ups end soon."""

    async def head(self, conversation_id: str) -> Head | None:
        """The conversation's last version; None when it was never started."""

    async def conversation_of(self, tenant: str, response_id: str) -> str | None:
        """The conversation a response belongs to."""

    async def items(self, conversation_id: str, item_ids: Sequence[str]) -> list[Recorded]:
        """Every event that names one of these, ascending."""


class Record(Struct, frozen=True, kw_only=True):
    """A reply: its request, where and when that is, its end if it has ended, and the items it put out, whole or in part."""

    conversation_id: str
    at: Recorded
    requested: ReplyRequested
    ended_at: Recorded | None = None
    end: ReplyEnd | None = None
    output: tuple[InputItem, ...] = ()

    @property
    def response_id(self) -> str:
        return self.requested.response_id

    @property
    def last(self) -> Recorded:
        """The newest of its events."""
        return self.ended_at or self.at

    @property
    def parameters(self) -> dict[str, Any]:
        """What the caller set."""
        parameters: dict[str, Any] = msgspec.json.decode(self.requested.parameters)
        return parameters

    @property
    def status(self) -> Status:
        return status_of(self.end)

    def response(self) -> bytes:
        """The Response as it is now."""
        end = self.end
        facts: dict[str, Any] = {}
        if isinstance(end, ReplyCompleted):
            reason = INCOMPLETE_REASONS.get(end.finish_reason)
            facts = {"model": end.model, "usage": end.usage, "incomplete_reason": reason, "cost": end.cost}
        elif end is not None:
            facts = {"error": error_of(end)}
        if self.ended_at is not None:
            facts["completed_at"] = self.ended_at.recorded_at.timestamp()
        return response_of(
            self.requested,
            self.conversation_id,
            self.status,
            output=[as_output(given.item_id, given.item) for given in self.output],
            **facts,
        )

    def events(self) -> Iterator[StreamEvent]:
        """The events of its stream, in the pieces it came in; as far as the reply has come, when it has not ended."""
        yield from begun(self.requested, self.conversation_id)
        if self.end is None:
            return
        if isinstance(self.end, ReplyCompleted):
            items = [(given.item_id, from_stored(given.item)) for given in self.output]
            yield from stream_events.of_items(items, self.end.delta_lengths)
        else:
            yield from output.opened_again(self.output, self.end.delta_lengths)
        yield stream_events.ended(self.status, self.response())

    def stream(self, after: int = -1) -> list[bytes]:
        """Its events with a `sequence_number` past `after`, as they are sent."""
        sent = [stream_events.sse(event, sequence) for sequence, event in enumerate(self.events())]
        rest = sent[after + 1 :]
        if rest or self.end is None or isinstance(self.end, ReplyCompleted):
            return rest
        # More may have been told than was known when it was put on record: a stream ends all the same, and its numbers rise.
        return [stream_events.sse(stream_events.ended(self.status, self.response()), after + 1)]


def begun(requested: ReplyRequested, conversation_id: str | None) -> list[StreamEvent]:
    """The events that a reply's stream begins with."""
    queued = None
    if msgspec.json.decode(requested.parameters).get("background"):
        queued = response_of(requested, conversation_id, "queued")
    return stream_events.opened(response_of(requested, conversation_id, "in_progress"), queued)


def response_of(requested: ReplyRequested, conversation_id: str | None, status: Status, **known: Any) -> bytes:
    """The Response to a request; `known` is what is known of it by now, as `response_object` takes it."""
    facts: dict[str, Any] = {
        "model": requested.model,
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_reason": None,
        **known,
    }
    return response_object(
        response_id=requested.response_id,
        conversation_id=conversation_id,
        created_at=minted_seconds(requested.response_id),
        status=status,
        parameters=msgspec.json.decode(requested.parameters),
        **facts,
    )


def status_of(end: ReplyEnd | None) -> Status:
    """The status of a reply that ended so."""
    match end:
        case None:
            return "in_progress"
        case ReplyCompleted():
            return "incomplete" if end.finish_reason in INCOMPLETE_REASONS else "completed"
        case ReplyFailed():
            return "failed"
        case ReplyCancelled():
            return "cancelled"
        case ReplyInterrupted():
            return "incomplete"


def error_of(end: ReplyFailed | ReplyCancelled | ReplyInterrupted) -> dict[str, str] | None:
    """What a Response says of a reply that did not complete: {code, message}."""
    match end:
        case ReplyFailed():
            return {"code": end.code, "message": end.message}
        case ReplyInterrupted():
            return {"code": end.code, "message": INTERRUPTIONS.get(end.code, "The reply was cut off.")}
        case ReplyCancelled():
            return None


async def find(reader: Reader, tenant: str, response_id: str) -> Record:
    """The record of a tenant's reply. Raises ResponseNotFound, also where it or its conversation is deleted."""
    conversation_id = await reader.conversation_of(tenant, response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    return await read(reader, conversation_id, response_id)


async def read(reader: Reader, conversation_id: str, response_id: str) -> Record:
    """The record of a reply in this conversation. Raises ResponseNotFound."""
    head = await reader.head(conversation_id)
    if head is None or head.deleted:
        raise ResponseNotFound(response_id)
    rows = await reader.items(conversation_id, [response_id])
    if not rows or isinstance(rows[-1].event, ReplyDeleted):
        raise ResponseNotFound(response_id)
    requested, last = rows[0].event, rows[-1].event
    assert isinstance(requested, ReplyRequested)
    record = Record(conversation_id=conversation_id, at=rows[0], requested=requested)
    if not isinstance(last, REPLY_ENDS):
        return record
    return msgspec.structs.replace(
        record, ended_at=rows[-1], end=last, output=await _output(reader, conversation_id, last)
    )


async def _output(reader: Reader, conversation_id: str, end: ReplyEnd) -> tuple[InputItem, ...]:
    if not isinstance(end, ReplyCompleted):
        return kept_output(end)
    appended = {
        recorded.event.item_id: recorded.event.item
        for recorded in await reader.items(conversation_id, end.output_ids)
        if isinstance(recorded.event, ItemAppended)
    }
    return tuple(InputItem(item_id=item_id, item=appended[item_id]) for item_id in end.output_ids)


def kept_output(end: ReplyFailed | ReplyCancelled | ReplyInterrupted) -> tuple[InputItem, ...]:
    """What is kept of a reply that did not complete."""
    if isinstance(end, ReplyFailed) and end.partial_output and not end.output:
        # As it was kept at first: its text alone, without an id; it has that of its response.
        item = stream_events.with_text(output.MESSAGE, end.partial_output, output.CUT_OFF)
        item_id = f"msg_{end.response_id.rpartition('_')[2]}"
        return (InputItem(item_id=item_id, item=msgspec.json.encode(item)),)
    return end.output
