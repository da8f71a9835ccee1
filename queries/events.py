"""GET /v1/conversations/{id}/events: the audit trail. It comes from the log itself, not from a view, so it is always current.

`{object:"list", data:[{object:"event", version, position, type, recorded_at, actor, data}], first_id, last_id, has_more}`,
ascending. Versions are the ids here: `after`, `first_id` and `last_id` are integers (null on an empty page). `type` is the
event's topic, `actor` the subject who caused it, `data` the event's fields, items as the JSON objects they were sent as.
With `Accept: text/event-stream` the same events follow live: `id:` is the version, `event:` the topic.
"""

import re
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Struct
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from domain.errors import ConversationNotFound
from domain.events import Event
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.http.shapes import json_array, json_response
from queries.event_stream import follow
from queries.query_context import MAX_POSITION, QueryContext
from queries.query_route import QueryParameters, query_route

router = APIRouter(tags=["events"])

MAX_LIMIT = 1000
MAX_PAGE_BYTES = 16_000_000
"""Bytes. A page that reaches them ends there, however few events it has."""

_CHUNK = 100
_HASHES = frozenset({"request_sha256"})
_STREAM = "text/event-stream"


class EventsQuery(QueryParameters):
    after: int = Field(0, ge=0, le=MAX_POSITION, description="The version that the page begins after.")
    limit: int = Field(100, ge=1, le=MAX_LIMIT)


@query_route(
    router,
    "/v1/conversations/{conversation_id}/events",
    EventsQuery,
    headers={"Last-Event-ID": "Of a stream: the last version that arrived."},
)
async def list_events(context: QueryContext, conversation_id: str, query: EventsQuery) -> Response:
    """What happened to the conversation, oldest first; with `Accept: text/event-stream` as it happens."""
    head = await _head(context, conversation_id)
    headers = {"etag": etag(head.version)}
    request = context.request
    if _STREAM not in request.headers.get("accept", ""):
        page = await _page(context, conversation_id, query.after, query.limit, head.version)
        return json_response(page, headers=headers)
    headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
    last_event_id = request.headers.get("last-event-id")
    start = query.after if last_event_id is None else _version(last_event_id)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=_STREAM)
    sources = context.sources
    events = follow(sources.log, conversation_id, start, event_json, sources.shutdown)
    return StreamingResponse(events, headers=headers, media_type=_STREAM)


async def _head(context: QueryContext, conversation_id: str) -> Head:
    head = await context.sources.log.ask(lambda reader: reader.head(conversation_id))
    if head is None or head.tenant != context.principal.tenant or head.deleted:
        raise ConversationNotFound(conversation_id)
    return head


async def _page(context: QueryContext, conversation_id: str, after: int, limit: int, until: int) -> bytes:
    """Events with `after` < version <= `until`, `limit` at most, and no more than MAX_PAGE_BYTES can be helped."""
    bodies: list[bytes] = []
    last, size = after, 0
    while len(bodies) < limit and size < MAX_PAGE_BYTES and last < until:
        events = await _chunk(context, conversation_id, last, until, min(_CHUNK, limit - len(bodies)))
        for recorded in events:
            bodies.append(event_json(recorded))
            last = recorded.version
            size += len(bodies[-1])
            if size >= MAX_PAGE_BYTES:
                break
    return _list(bodies, last, has_more=last < until)


async def _chunk(context: QueryContext, conversation_id: str, after: int, until: int, limit: int) -> Sequence[Recorded]:
    return await context.sources.log.ask(
        lambda reader: reader.conversation(conversation_id, after=after, until=until, limit=limit)
    )


def _list(bodies: Sequence[bytes], last: int, *, has_more: bool) -> bytes:
    """Versions have no gaps: the last one and how many there are say which was the first."""
    ends = {
        "first_id": last - len(bodies) + 1 if bodies else None,
        "last_id": last if bodies else None,
        "has_more": has_more,
    }
    return b'{"object":"list","data":' + json_array(bodies) + b"," + msgspec.json.encode(ends)[1:]


def _version(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,19}", text) is None or int(text) > MAX_POSITION:
        raise ApiError(
            400, "`Last-Event-ID` is a version of the conversation.", code="invalid_header", param="Last-Event-ID"
        )
    return int(text)


def event_json(recorded: Recorded) -> bytes:
    """One event as the audit trail shows it: JSON text."""
    return msgspec.json.encode(
        {
            "object": "event",
            "version": recorded.version,
            "position": recorded.position,
            "type": recorded.event.topic,
            "recorded_at": recorded.recorded_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": recorded.subject,
            "data": _fields(recorded.event),
        }
    )


def _fields(struct: Struct | Event) -> dict[str, Any]:
    """A struct's fields for JSON, without those that are unset; a field of bytes is JSON text already, or a hash."""
    return {
        name: value.hex() if name in _HASHES else _plain(value)
        for name in struct.__struct_fields__
        if (value := getattr(struct, name)) is not UNSET
    }


def _plain(value: Any) -> Any:
    match value:
        case Struct():
            return _fields(value)
        case bytes():
            return msgspec.Raw(value)
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value
