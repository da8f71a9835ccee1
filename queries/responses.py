"""GET /v1/responses/{id} and …/input_items: a reply that was asked for, from the view of them; and its stream, from the log and Redis."""

from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import Struct
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from domain.errors import ConversationNotFound, ResponseNotFound
from domain.events import ReplyCompleted, Usage
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import position_headers
from infrastructure.ids import minted_seconds
from projections.views.writes import Document, document_key
from queries.consistency import Read
from queries.log_access import LogAway, PatientReader, conversation_parked
from queries.paging import Include, Paging, cut
from queries.query_context import QueryContext
from queries.query_route import query_route
from replies.following import follow
from replies.record import Record, find_record, read_record
from replies.response_object import INCOMPLETE_REASONS, response_object

router = APIRouter(tags=["responses"])

_MICROSECONDS = 1_000_000
_SSE = "text/event-stream; charset=utf-8"


class _Identified(Struct):
    id: str


_identified = msgspec.json.Decoder(_Identified)


class ResponseQuery(Include):
    stream: bool = Field(False, description="Its events instead, those still to come included.")
    starting_after: int | None = Field(
        None, ge=0, le=2**53, description="With `stream`: the last event that the client has."
    )
    include_obfuscation: bool = Field(False, description="Accepted; nothing is obfuscated here.")


@query_route(router, "/v1/responses/{response_id}", ResponseQuery)
async def get_response(context: QueryContext, response_id: str, query: ResponseQuery) -> Response:
    """The Response, one that is still running included."""
    if query.stream:
        return await _stream(context, response_id, -1 if query.starting_after is None else query.starting_after)
    if query.starting_after is not None:
        raise ApiError(400, "`starting_after` needs `stream`.", code="invalid_value", param="starting_after")
    read, document = await _find(context, response_id)
    output = [item.encode() for item in document["output"]]
    output = output or await _output(context, read, document["output_ids"])
    return shapes.json_response(_render(document, output), headers=read.headers)


async def _stream(context: QueryContext, response_id: str, after: int) -> Response:
    """The events past `after`: of a reply that has ended all the rest, of one that runs those that come as well."""
    reader, redis = PatientReader(context.sources.log), context.sources.redis
    found = await find_record(reader, context.principal.tenant, response_id)

    async def read_again() -> Record:
        return await read_record(reader, found.conversation_id, response_id)

    if _is_past_the_end(found, after):
        raise ApiError(400, "`starting_after` is past the newest event.", code="invalid_value", param="starting_after")
    headers = {
        **position_headers(found.last.position, found.last.version),
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    events = follow(redis, read_again, found, after, context.sources.shutdown)
    return StreamingResponse(events, media_type=_SSE, headers=headers)


def _is_past_the_end(found: Record, after: int) -> bool:
    """Whether a reply that has completed has no event of this number. Of others nobody can say: a client may be ahead of Redis and of the record."""
    return isinstance(found.end, ReplyCompleted) and after >= sum(1 for _ in found.events())


class InputItemsQuery(Include, Paging):
    """A page, and `include[]`."""


@query_route(router, "/v1/responses/{response_id}/input_items", InputItemsQuery)
async def list_input_items(context: QueryContext, response_id: str, paging: InputItemsQuery) -> Response:
    """A page of the items the response was asked with, newest first."""
    read, document = await _find(context, response_id)
    items = [item.encode() for item in document["input"]]
    ids = [_identified.decode(item).id for item in items]
    page, page_ids, has_more = cut(items, ids, paging, "input item of this response")
    return shapes.json_response(shapes.item_list(page, page_ids, has_more=has_more), headers=read.headers)


async def _find(context: QueryContext, response_id: str) -> tuple[Read, Document]:
    """The response's document once it is current. Raises ResponseNotFound, of a deleted conversation's too."""
    tenant = context.principal.tenant
    try:
        conversation_id = await context.sources.log.ask(lambda reader: reader.conversation_of(tenant, response_id))
    except LogAway:
        return await _find_unverified(context, response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    try:
        read = await context.read(conversation_id, "responses", "items")
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error
    return read, await _document(context, read, response_id)


async def _find_unverified(context: QueryContext, response_id: str) -> tuple[Read, Document]:
    """Which conversation it belongs to, the log knows before any view does; with the log away the view has to do."""
    read = await context.read_everything("responses", "items")
    try:
        document = await _document(context, read, response_id)
    except ResponseNotFound:
        if read.parked:
            raise conversation_parked() from None  # it may be of that one
        raise
    if document["conversation_id"] in read.parked:
        raise conversation_parked()
    return read, document


async def _document(context: QueryContext, read: Read, response_id: str) -> Document:
    document = await context.find(read, "responses", response_id)
    if document is None or document["deleted"]:
        raise ResponseNotFound(response_id)
    return document


async def _output(context: QueryContext, read: Read, item_ids: list[str]) -> list[bytes]:
    """The JSON texts of a reply's items, in order: from the view of items, so that no document holds what can grow."""
    idents = [document_key(context.principal.tenant, item_id) for item_id in item_ids]
    items = context.collection(read, "items").find({"_id": {"$in": idents}})
    found = {each["_id"]: each["item"].encode() async for each in items}
    if len(found) < len(idents):
        await context.sources.consistency.check(read)
        raise ResponseNotFound(item_ids[0])  # their conversation was deleted meanwhile
    return [found[ident] for ident in idents]


def _render(document: Document, output: list[bytes]) -> bytes:
    parameters: dict[str, Any] = msgspec.json.decode(document["parameters"])
    completed_at: int | None = document["completed_at"]
    usage = document["usage"]
    incomplete = document["status"] == "incomplete"
    return response_object(
        response_id=document["id"],
        conversation_id=document["conversation_id"],
        created_at=minted_seconds(document["id"]),
        status=document["status"],
        model=document["model"],
        output=output,
        parameters=parameters,
        usage=None if usage is None else msgspec.convert(usage, Usage),
        error=document["error"],
        incomplete_reason=INCOMPLETE_REASONS.get(document["finish_reason"]) if incomplete else None,
        completed_at=None if completed_at is None else completed_at / _MICROSECONDS,
        cost=document["cost"],
    )
