"""GET /v1/conversations/{id}/events: the audit trail, from the log. It is always current.

`after`, `first_id` and `last_id` are versions. In a stream, `id:` is the version and `event:` the topic.
"""

import re
from collections.abc import Sequence
from datetime import UTC
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from domain.content_references import MARK, for_clients
from domain.events import ConversationDescribed, Event
from infrastructure.event_log.incarnation import LogMoved, StreamVersion
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import ApiError
from infrastructure.http.event_streams import EVENT_STREAM, EventStream, head_of_stream
from infrastructure.http.headers import etag, single_header
from infrastructure.http.limits import allowance_of
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.shapes import json_array, json_response
from queries.blanking import NOTHING, Deleted, audit_trail_head, blank, deleted_in
from queries.paging import MAX_PAGE_BYTES, MAX_SMALL_PAGE_BYTES
from queries.principal_log import PrincipalLog
from queries.query_context import MAX_POSITION, QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["events"])

MAX_LIMIT = 1000
_CHUNK_EVENTS = 100
_CHUNK_BYTES = 1024 * 1024
"""Bytes of decompressed events."""

_MARK = MARK.encode()
_HASHES = frozenset({"request_sha256", "sha256", "settings", "summary"})
"""Fields that hold a hash if they hold bytes."""


class LogEvent(Struct, frozen=True, kw_only=True, tag_field="object", tag="event"):
    """An event of the audit trail. `type`: its topic. `actor`: the subject who caused it. `data`: its fields, with items as JSON.

    `blanked`: the names of the fields of `data` that are null because their content is deleted now, such as `item` and `input[0].item`.
    """

    version: int
    position: int
    type: str
    recorded_at: str
    actor: str
    data: dict[str, Any]
    blanked: list[str] | UnsetType = UNSET


class LogEventList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of events, in ascending order. `first_id` and `last_id` are versions."""

    data: list[LogEvent]
    first_id: int | None
    last_id: int | None
    has_more: bool


class EventsQuery(QueryParameters):
    after: int = Field(0, ge=0, le=MAX_POSITION, description="The version that the page begins after.")
    limit: int = Field(100, ge=1, le=MAX_LIMIT)


@query_route(
    router,
    "/v1/conversations/{conversation_id}/events",
    EventsQuery,
    headers={"Last-Event-ID": "For a stream: the version of the last event that was received."},
    answer=LogEventList,
    events=LogEvent,
    answer_headers=("ETag",),
)
async def list_events(context: QueryContext, conversation_id: str, query: EventsQuery) -> Response:
    """The conversation's events, oldest first; with `Accept: text/event-stream` a live stream.

    To see deleted content, a caller needs the scope `audit`. The events of a deleted conversation are shown only to its owner and an admin, who
    also need a login.
    A stream ends with an event `error` when its client may no longer read the conversation. The data of this event is an ErrorResponse.
    """
    dependencies = context.dependencies
    log = dependencies.log
    head = await audit_trail_head(log, conversation_id)
    headers = {"etag": etag(head.version)}
    request = context.request
    last_event_id = _last_event_id(request)
    if EVENT_STREAM not in request.headers.get("accept", ""):
        if not head.deleted:
            await context.check_modified(conversation_id)
        read = partial(
            read_page,
            log,
            conversation_id,
            after=query.after,
            until=head.stream_version,
            limit=query.limit,
            sees_deleted=context.principal.may("audit"),
        )
        page, is_large = await read(max_bytes=MAX_SMALL_PAGE_BYTES)
        if is_large:
            async with dependencies.connections.large_answer(context.principal.tenant):
                page, _ = await read()
        return json_response(page, headers=headers)
    start = _start_of_stream(query.after, last_event_id, head)
    if request.method == "HEAD":
        return head_of_stream(headers)
    await allowance_of(request).follow()
    events = dependencies.event_streams.follow(dependencies.stream_log, conversation_id, head, start)
    return EventStream(events, headers, dependencies.comment_seconds)


async def read_page(
    log: PrincipalLog,
    conversation_id: str,
    *,
    after: int,
    until: StreamVersion,
    limit: int,
    sees_deleted: bool,
    max_bytes: int = MAX_PAGE_BYTES,
) -> tuple[bytes, bool]:
    """The body of a page, and whether the page is large. The page's events have `after` < version <= `until`.

    The page has at least one event if there is one. A page is large if it exceeds `max_bytes` or was cut there. Raises LogMoved
    if the log may have moved back since `until` was read.
    """
    bodies: list[bytes] = []
    first: int | None = None
    last, size, is_cut = after, 0, False
    while len(bodies) < limit and last < until.version and not is_cut:
        chunk = min(_CHUNK_EVENTS, limit - len(bodies))
        room = max(1, min(_CHUNK_BYTES, max_bytes - size))
        events = await log.conversation(conversation_id, after=last, until=until.version, limit=chunk, max_bytes=room)
        if not events or events[0].incarnation != until.incarnation:
            raise LogMoved("the log may have moved back while its events were read")
        for recorded, body in zip(events, await events_json(log, events, sees_deleted), strict=True):
            is_cut = bool(bodies) and size + len(body) > max_bytes
            if is_cut:
                break
            bodies.append(body)
            first = first or recorded.version
            last = recorded.version
            size += len(body)
    ends = {"first_id": first, "last_id": last if bodies else None, "has_more": last < until.version}
    page = b'{"object":"list","data":' + json_array(bodies) + b"," + msgspec.json.encode(ends)[1:]
    return page, is_cut or size > max_bytes


def _start_of_stream(after: int, last_event_id: int | None, head: Head) -> int:
    """Raises ApiError (400) if there is no such version yet."""
    param = "after" if last_event_id is None else "Last-Event-ID"
    start = after if last_event_id is None else last_event_id
    if start > head.version:
        message = f"`{param}` is greater than the conversation's last version, {head.version}."
        raise ApiError(400, message, code="invalid_value", param=param)
    return start


def _last_event_id(request: Request) -> int | None:
    """None without the header. Raises ApiError (400) if malformed, even without a stream."""
    text = single_header(request.headers, "Last-Event-ID")
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,19}", text) is None or int(text) > MAX_POSITION:
        raise ApiError(
            400, "`Last-Event-ID` must be a version of the conversation.", code="invalid_header", param="Last-Event-ID"
        )
    return int(text)


async def events_json(log: PrincipalLog, events: Sequence[Recorded], sees_deleted: bool) -> list[bytes]:
    """Each event as JSON. Without `sees_deleted`, deleted content is blanked.

    There must be at least one event, all of one conversation.
    """
    deleted = NOTHING if sees_deleted else await deleted_in(log, events)
    return [event_json(recorded, deleted) for recorded in events]


def event_json(recorded: Recorded, deleted: Deleted = NOTHING) -> bytes:
    data = _fields(recorded.event)
    if isinstance(recorded.event, ConversationDescribed):
        for name in _meaningless(recorded.event):
            del data[name]
    blanked = blank(data, recorded, deleted)
    return msgspec.json.encode(
        LogEvent(
            version=recorded.version,
            position=recorded.position,
            type=recorded.event.topic,
            recorded_at=recorded.recorded_at.astimezone(UTC).isoformat(timespec="microseconds"),
            actor=recorded.subject,
            data=data,
            blanked=blanked or UNSET,
        )
    )


def _meaningless(event: ConversationDescribed) -> tuple[str, ...]:
    if event.title_by == "model":
        return ()
    of_model = ("title_items", "model", "usage", "cost")
    return of_model if isinstance(event.title, str) else ("title_by", *of_model)


def _fields(struct: Struct | Event) -> dict[str, Any]:
    """A field of bytes holds JSON text, or a hash."""
    return {
        name: value.hex() if isinstance(value, bytes) and name in _HASHES else _plain(value)
        for name in struct.__struct_fields__
        if (value := getattr(struct, name)) is not UNSET
    }


def _plain(value: Any) -> Any:
    match value:
        case Struct():
            return _fields(value)
        case bytes() if _MARK in value:
            return for_clients(msgspec.json.decode(value))
        case bytes():
            return msgspec.Raw(value)
        case tuple():
            return [_plain(member) for member in value]
        case _:
            return value
