"""GET /v1/responses/{id} and …/input_items, from the views; with `stream=true`, from the log and Redis."""

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from domain.errors import ConversationNotFound, ResponseNotFound
from domain.events import ReplyCompleted, Usage
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.event_streams import EventStream, head_of_stream
from infrastructure.http.headers import position_headers
from infrastructure.http.item_schemas import ItemList
from infrastructure.http.limits import allowance_of
from infrastructure.ids import minted_seconds
from projections.views.writes import Document
from queries.consistency import Read, may_see_unverified
from queries.deleted_copies import deleted_input, input_ids
from queries.included_images import include_images
from queries.log_access import PostgresUnavailable, conversation_parked
from queries.paging import IncludeQuery, PageQuery, page_of
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.tenant_views import Ids
from replies.record import Record, find_record, read_record
from replies.recorded_stream import RecordedStream
from replies.response_object import response_object
from replies.response_shape import ResponseEvent, ResponseObject

router = APIRouter(tags=["responses"])

_MICROSECONDS = 1_000_000


class ResponseQuery(IncludeQuery):
    stream: bool = Field(False, description="The response's events, including those still to come.")
    starting_after: int | None = Field(
        None, ge=0, le=2**53, description="With `stream`: the number of the last event that the client has."
    )
    include_obfuscation: bool = Field(False, description="Accepted; nothing is obfuscated here.")


@query_route(
    router,
    "/v1/responses/{response_id}",
    ResponseQuery,
    answer=ResponseObject,
    events=ResponseEvent,
    answer_headers=("X-Position", *CONVERSATION_HEADERS),
)
async def get_response(context: QueryContext, response_id: str, query: ResponseQuery) -> Response:
    """The Response, also while it is running."""
    if query.stream:
        return await _stream(context, response_id, -1 if query.starting_after is None else query.starting_after)
    if query.starting_after is not None:
        raise ApiError(400, "`starting_after` requires `stream`.", code="invalid_value", param="starting_after")
    read, document = await read_response(context, response_id)
    output = await output_of(context, read, document)
    return shapes.json_response(response_json(document, output), headers=read.headers)


async def _stream(context: QueryContext, response_id: str, after: int) -> Response:
    dependencies = context.dependencies
    log = dependencies.stream_log
    record = await find_record(log, response_id)
    conversation_id = record.conversation_id

    async def read_again() -> Record:
        return await read_record(log.shared(), conversation_id, response_id)

    if after >= 0 and isinstance(record.end, ReplyCompleted) and after >= RecordedStream(record).count:
        raise ApiError(
            400,
            "`starting_after` is greater than the number of the last event.",
            code="invalid_value",
            param="starting_after",
        )
    headers = position_headers(record.last.position, record.last.version)
    if context.request.method == "HEAD":
        return head_of_stream(headers)
    await allowance_of(context.request).follow()
    events = dependencies.reply_streams.follow(record, read_again, after, context.principal)
    return EventStream(events, headers, dependencies.comment_seconds)


class InputItemsQuery(IncludeQuery, PageQuery):
    """The parameters of a page, and `include[]`."""


@query_route(
    router,
    "/v1/responses/{response_id}/input_items",
    InputItemsQuery,
    answer=ItemList,
    answer_headers=CONVERSATION_HEADERS,
)
async def list_input_items(context: QueryContext, response_id: str, query: InputItemsQuery) -> Response:
    """A page of the response's input items, newest first, without deleted ones.

    Any input item may be a cursor, even a deleted one.
    """
    read, document = await read_response(context, response_id)
    deleted = await deleted_input(context, read, [document])
    items = [item.encode() for item in document["input"]]
    page = page_of(items, input_ids(document), query, "an input item of this response", left_out=deleted)
    page.has_copies = bool(document.get("copies"))
    await include_images(context, page, query.include)
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


async def read_response(context: QueryContext, response_id: str) -> tuple[Read, Document]:
    """Raises ResponseNotFound, also if the conversation was deleted."""
    try:
        conversation_id = await context.dependencies.log.conversation_of(response_id)
    except PostgresUnavailable:
        return await _read_response_unverified(context, response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    try:
        read = await context.read_conversation(conversation_id, "responses", "items")
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error
    return read, await _document(context, read, response_id)


async def _read_response_unverified(context: QueryContext, response_id: str) -> tuple[Read, Document]:
    """Without Postgres the response's conversation is unknown, so the document is looked up in the views of the tenant.

    Raises PostgresUnavailable if the views do not show the response to the caller, and ApiError 503 if its conversation
    may be parked.
    """
    read = await context.read_tenant("responses", "items", "conversations")
    try:
        document = await _document(context, read, response_id)
        await _check_owner(context, read, document)
    except ResponseNotFound:
        if read.parked:
            raise conversation_parked() from None  # the response may belong to a parked conversation
        raise PostgresUnavailable from None  # the view may be behind, so only Postgres knows whether the response exists
    if document["conversation_id"] in read.parked:
        raise conversation_parked()
    return read, document


async def _check_owner(context: QueryContext, read: Read, document: Document) -> None:
    """Raises ResponseNotFound if the caller is neither the conversation's owner nor an admin."""
    conversation = await context.find_document(read, "conversations", document["conversation_id"], "owner")
    if conversation is None or not may_see_unverified(context.principal, conversation["owner"]):
        raise ResponseNotFound(document["id"])


async def _document(context: QueryContext, read: Read, response_id: str) -> Document:
    document = await context.find_document(read, "responses", response_id)
    if document is None or document["deleted"]:
        raise ResponseNotFound(response_id)
    return document


async def output_of(context: QueryContext, read: Read, document: Document) -> list[bytes]:
    """The output items, without retracted ones. Items that joined the conversation come first.

    Raises ResponseNotFound if the conversation was deleted during the read.
    """
    rest = [item.encode() for item in document["output"]]
    item_ids: list[str] = document["output_ids"]
    if not item_ids:
        return rest
    items = await context.documents(read, "items", Ids(item_ids))
    documents = {item["id"]: item async for item in items}
    if len(documents) < len(item_ids):
        await context.dependencies.consistency.check(read)
        raise ResponseNotFound(document["id"])  # the conversation was deleted during the read
    joined = [documents[item_id] for item_id in item_ids]
    return [*(item["item"].encode() for item in joined if item["retracted_version"] is None), *rest]


def response_json(document: Document, output: Sequence[bytes]) -> bytes:
    parameters: dict[str, Any] = msgspec.json.decode(document["parameters"])
    if "metadata" in document:  # older versions of the view do not have it
        parameters["metadata"] = dict(document["metadata"])
    completed_at: int | None = document["completed_at"]
    usage = document["usage"]
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
        finish_reason=document["finish_reason"],
        service_tier=document.get("service_tier"),  # older versions of the view have neither this nor the renderer
        renderer=document.get("renderer"),
        completed_at=None if completed_at is None else completed_at / _MICROSECONDS,
        cost=document["cost"],
        shortened_from=parameters.get("shortened_from"),
    )
