"""GET /v1/conversations/{id}/responses: the replies of a conversation, also those that wait or run, with their input.

Deleted replies, and the replies of a fork's origin, are left out.
"""

from collections.abc import Collection, Sequence

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from infrastructure.http import shapes
from infrastructure.http.item_schemas import ItemJson
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.deleted_copies import input_ids
from queries.paging import CursorParam, IncludeQuery, PageQuery, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.response_pages import Entry, Selected, response_page
from queries.responses import response_json
from replies.response_shape import ResponseObject

router = APIRouter(tags=["responses"])


class ListedResponse(ResponseObject, frozen=True, kw_only=True, tag_field="object", tag="response"):
    """A Response with its input items."""

    input: list[ItemJson]


class ResponseList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of responses."""

    data: list[ListedResponse]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ConversationResponsesQuery(IncludeQuery, PageQuery):
    """A page, and `include[]`."""


@query_route(
    router,
    "/v1/conversations/{conversation_id}/responses",
    ConversationResponsesQuery,
    answer=ResponseList,
    answer_headers=CONVERSATION_HEADERS,
)
async def list_responses(context: QueryContext, conversation_id: str, query: ConversationResponsesQuery) -> Response:
    """A page of the conversation's responses, newest first by default: queued, running, completed, failed, cancelled and incomplete ones.

    Each has its input items as `input`.
    """
    if query.is_first_page:
        await context.check_modified(conversation_id)
    read = await context.read_conversation(conversation_id, "responses", "items")
    page = await response_page(context, read, await _selected(context, read, query))
    if not page.is_full:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


async def _selected(context: QueryContext, read: ConversationRead, query: PageQuery) -> Selected:
    after_operator, before_operator = ("$gt", "$lt") if query.ascending else ("$lt", "$gt")
    bounds: Document = {}
    if query.after is not None:
        bounds[after_operator] = await _version_of(context, read, "after", query.after)
    if query.before is not None:
        bounds[before_operator] = await _version_of(context, read, "before", query.before)
    where: Document = {"conversation_id": read.conversation_id, "deleted": False}
    stages: list[Document] = [
        {"$sort": {"version": 1 if query.ascending != query.is_backwards else -1}},
        {"$limit": query.limit + 1},
        {"$project": {"_id": 0}},
    ]
    return Selected(
        where={**where, "version": bounds} if bounds else where,
        stages=stages,
        limit=query.limit,
        with_input=True,
        entry_of=_entry,
    )


async def _version_of(context: QueryContext, read: ConversationRead, param: CursorParam, cursor: str) -> int:
    """Accepts a deleted response too. Raises ApiError (400) if the response is not in this conversation."""
    document = await context.find_document(read, "responses", cursor, "conversation_id", "version")
    if document is None or document["conversation_id"] != read.conversation_id:
        raise unknown_cursor(param, "a response of this conversation")
    version: int = document["version"]
    return version


def _entry(document: Document, output: Sequence[bytes], deleted: Collection[str]) -> Entry:
    items = zip(input_ids(document), document["input"], strict=True)
    input_json = shapes.json_array([item.encode() for item_id, item in items if item_id not in deleted])
    return Entry(document["id"], response_json(document, output)[:-1] + b',"input":' + input_json + b"}")
