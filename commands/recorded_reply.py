"""A reply as the log has it: the answer to a repeat of its request, whole or as the same stream of events again."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct

from commands import reply_events
from commands.reply_events import StreamEvent
from domain.errors import ConversationNotFound
from domain.events import ItemAppended, ReplyCompleted, ReplyFailed, ReplyRequested
from domain.items import as_output, from_stored, text_of
from infrastructure.event_log.reader import EventReader
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import placed
from infrastructure.http.response_object import INCOMPLETE_REASONS, Status, response_object
from infrastructure.ids import minted_seconds
from infrastructure.model import ModelFailed

WAIT_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5


class Kept(Struct, frozen=True):
    """What an idempotency key of a reply is kept with: the reply that its first request led to."""

    conversation_id: str
    response_id: str


class _Record(Struct, frozen=True):
    """A reply's events: what was asked, how it ended if it has, and when (seconds since 1970) and where the last of them is."""

    requested: ReplyRequested
    end: ReplyCompleted | ReplyFailed | None
    at: float
    version: int
    position: int


class RecordedReply:
    """One reply, read from the log. Raises psycopg.Error when that is away."""

    def __init__(self, reader: EventReader, kept: Kept) -> None:
        self._reader = reader
        self._kept = kept

    async def begun(self) -> dict[str, str]:
        """The headers that a stream of it begins with."""
        return _headers(await self._recorded())

    async def whole(self) -> tuple[bytes, dict[str, str]]:
        """The Response, and its headers. Raises ModelFailed as the first answer did; ApiError 503 when the reply runs for too long."""
        record = await self._ended()
        if isinstance(record.end, ReplyFailed):
            raise ModelFailed(record.end.code, record.end.message, timed_out=record.end.code == "model_timeout")
        return await self._finished(record), _headers(record)

    async def stream(self) -> AsyncIterator[bytes]:
        """The same events again, in the same pieces; the first ones at once, though the reply may still run."""
        sequence = 0
        async for event in self._events():
            yield reply_events.sse(event, sequence)
            sequence += 1

    async def _events(self) -> AsyncIterator[StreamEvent]:
        for event in reply_events.opened(self._response(await self._recorded(), "in_progress")):
            yield event
        try:
            record = await self._ended()
        except ApiError as error:
            yield {"type": "error", "code": error.code, "message": error.message, "param": None}
            return
        end = record.end
        if isinstance(end, ReplyFailed):
            failure = {"code": end.code, "message": end.message}
            yield reply_events.ended("failed", self._response(record, "failed", error=failure))
            return
        assert end is not None
        for item_id in end.output_ids:
            text = text_of(from_stored(await self._item(item_id)))
            for event in reply_events.added(item_id):
                yield event
            for piece in reply_events.pieces(text, end.delta_lengths):
                yield reply_events.delta(item_id, piece)
            for event in reply_events.done(item_id, text, _status(end)):
                yield event
        yield reply_events.ended(_status(end), await self._finished(record))

    async def _recorded(self) -> _Record:
        head = await self._reader.head(self._kept.conversation_id)
        if head is None or head.deleted:
            raise ConversationNotFound(self._kept.conversation_id)
        rows = await self._reader.item(self._kept.conversation_id, self._kept.response_id)
        requested, last = rows[0].event, rows[-1].event
        assert isinstance(requested, ReplyRequested)
        end = last if isinstance(last, ReplyCompleted | ReplyFailed) else None
        return _Record(requested, end, rows[-1].recorded_at.timestamp(), rows[-1].version, rows[-1].position)

    async def _ended(self) -> _Record:
        """The record, once the reply has ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while (record := await self._recorded()).end is None:
            if time.monotonic() > deadline:
                raise ApiError(503, "The first request with this key is still running.", code="response_in_progress")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return record

    async def _finished(self, record: _Record) -> bytes:
        end = record.end
        assert isinstance(end, ReplyCompleted)
        return self._response(
            record,
            _status(end),
            model=end.model,
            output=[as_output(item_id, await self._item(item_id)) for item_id in end.output_ids],
            usage=end.usage,
            incomplete_reason=INCOMPLETE_REASONS.get(end.finish_reason),
            completed_at=record.at,
        )

    async def _item(self, item_id: str) -> bytes:
        event = (await self._reader.item(self._kept.conversation_id, item_id))[0].event
        assert isinstance(event, ItemAppended)
        return event.item

    def _response(self, record: _Record, status: Status, **known: Any) -> bytes:
        facts: dict[str, Any] = {
            "model": record.requested.model,
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_reason": None,
            **known,
        }
        return response_object(
            response_id=self._kept.response_id,
            conversation_id=self._kept.conversation_id,
            created_at=minted_seconds(self._kept.response_id),
            status=status,
            parameters=msgspec.json.decode(record.requested.parameters),
            **facts,
        )


def _headers(record: _Record) -> dict[str, str]:
    return {**placed(record.position, record.version), "idempotent-replayed": "true"}


def _status(end: ReplyCompleted) -> Status:
    return "incomplete" if end.finish_reason in INCOMPLETE_REASONS else "completed"
