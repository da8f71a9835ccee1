"""GET /v1/conversations/{id}/responses: every reply of a conversation, running or ended, with its input.

An entry is a Response with its input items: `{object: "response", …, output: […], input: […]}`. The order is that in which the
replies were requested. Deleted responses and deleted items are left out. A response of a fork belongs to the fork.
"""

from collections.abc import Collection, Mapping

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from infrastructure.http import shapes
from infrastructure.http.item_schemas import ItemJson
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.deleted_copies import deleted_input, input_ids
from queries.paging import (
    MAX_PAGE_BYTES,
    MAX_SMALL_PAGE_BYTES,
    CursorParam,
    IncludeQuery,
    Page,
    PageQuery,
    unknown_cursor,
)
from queries.query_context import WITHOUT_LARGE, QueryContext, is_large
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.responses import output_of, response_json
from queries.tenant_views import Ids
from replies.response_shape import ResponseObject

router = APIRouter(tags=["responses"])

BATCH_DOCUMENTS = 8
"""How many documents of a large page MongoDB sends at a time. A batch has at most 16 MB, or one document."""


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
    """A page of the conversation's responses, newest first: running, completed, failed, cancelled and incomplete ones.

    Each has its input items as `input`.
    """
    if query.is_first_page:
        await context.check_modified(conversation_id)
    read = await context.read_conversation(conversation_id, "responses", "items")
    selection, stages = await _requested(context, read, query)
    page = await _small_page(context, read, selection, stages, query.limit)
    if page is None:
        async with context.dependencies.connections.large_answer(context.principal.tenant):
            page = await _large_page(context, read, selection, stages, query.limit)
    if not page.is_full:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


async def _requested(
    context: QueryContext, read: ConversationRead, query: PageQuery
) -> tuple[Document, list[Document]]:
    """The filter and the stages that read the page's documents and one more document, ordered by the version at which each reply was requested."""
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
    return {**where, "version": bounds} if bounds else where, stages


async def _version_of(context: QueryContext, read: ConversationRead, param: CursorParam, cursor: str) -> int:
    """The version at which a response was requested. It may be deleted. Raises ApiError (400) if it is not of this conversation."""
    document = await context.find_document(read, "responses", cursor, "conversation_id", "version")
    if document is None or document["conversation_id"] != read.conversation_id:
        raise unknown_cursor(param, "a response of this conversation")
    version: int = document["version"]
    return version


async def _small_page(
    context: QueryContext, read: ConversationRead, selection: Document, stages: list[Document], limit: int
) -> Page | None:
    """The page, if it is small; else None. It is read in two steps: the responses, then their output items."""
    documents = await context.aggregate(read, "responses", selection, [*stages, WITHOUT_LARGE])
    if any(map(is_large, documents)):
        return None
    items = await _small_items(context, read, documents)
    deleted = await deleted_input(context, read, documents)
    page = Page(limit=limit, max_bytes=MAX_SMALL_PAGE_BYTES)
    for document in documents:
        if items is None or not items.keys() >= set(document["output_ids"]):
            return None
        output = document["output"] or [item for item_id in document["output_ids"] if (item := items[item_id])]
        page.has_copies = page.has_copies or bool(document.get("copies"))
        entry = _entry(document, [item.encode() for item in output], deleted)
        if not page.add(document["id"], entry) and not page.is_full:
            return None
    return page


async def _small_items(
    context: QueryContext, read: ConversationRead, documents: list[Document]
) -> Mapping[str, str] | None:
    """The output items of these responses by id; "" for a retracted item. None if they are too large for a small page."""
    items: dict[str, str] = {}
    size = 0

    def take(document: Document) -> bool:
        nonlocal size
        if is_large(document):
            return False
        items[document["id"]] = document["item"] if document["retracted_version"] is None else ""
        size += len(document["item"])
        return size <= MAX_SMALL_PAGE_BYTES

    item_ids = [item_id for document in documents for item_id in document["output_ids"]]
    stages = [{"$project": {"_id": 0, "id": 1, "item": 1, "retracted_version": 1}}, WITHOUT_LARGE]
    is_small = not item_ids or await context.read_while(read, "items", Ids(item_ids), stages, take)
    return items if is_small else None


async def _large_page(
    context: QueryContext, read: ConversationRead, selection: Document, stages: list[Document], limit: int
) -> Page:
    """The page, which ends at MAX_PAGE_BYTES. The output items are read for one response at a time."""
    page = Page(limit=limit, max_bytes=MAX_PAGE_BYTES)
    async with await context.documents(read, "responses", selection, stages, BATCH_DOCUMENTS) as documents:
        async for document in documents:
            if page.is_full:
                page.has_more = True
                break
            page.has_copies = page.has_copies or bool(document.get("copies"))
            deleted = await deleted_input(context, read, [document])
            if not page.add(document["id"], _entry(document, await output_of(context, read, document), deleted)):
                break
    await context.dependencies.consistency.check(read)
    return page


def _entry(document: Document, output: list[bytes], deleted: Collection[str]) -> bytes:
    """The Response with its input items, without the `deleted` ones."""
    items = zip(input_ids(document), document["input"], strict=True)
    input_json = shapes.json_array([item.encode() for item_id, item in items if item_id not in deleted])
    return response_json(document, output)[:-1] + b',"input":' + input_json + b"}"
