"""GET /v1/conversations/{id}/items and …/items/{item}: items as they were at one version, from the view `items`."""

import asyncio
from collections.abc import Collection, Mapping

import msgspec
from fastapi import APIRouter
from msgspec import Struct, field
from pydantic import Field
from starlette.responses import Response

from context.conversation_settings import unretracted
from domain.errors import ItemNotFound
from domain.paths import PathSegment
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import Item, ItemList
from projections.views.items import items_on
from projections.views.writes import Document
from queries.blanking import blanked_item_json
from queries.consistency import ConversationRead
from queries.deleted_copies import deleted_copies
from queries.not_modified import NO_STORE
from queries.paging import CursorParam, IncludeQuery, Page, PageQuery, fetch_page, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.tenant_views import Ids

router = APIRouter(tags=["items"])


class ItemsQuery(IncludeQuery, PageQuery):
    as_of: int | None = Field(
        None,
        ge=1,
        description="The version to read at. Default: the newest. Items that were deleted since then are shown without content and with `blanked: true`. A caller with the scope `audit` sees their content.",
    )


@query_route(
    router,
    "/v1/conversations/{conversation_id}/items",
    ItemsQuery,
    answer=ItemList,
    answer_headers=CONVERSATION_HEADERS,
)
async def list_items(context: QueryContext, conversation_id: str, query: ItemsQuery) -> Response:
    """A page of the conversation's items, newest first. A cursor is any item of the conversation, retracted or not."""
    if query.is_first_page and query.as_of is None:
        await context.check_modified(conversation_id)
    # An item's depth never changes, so it can be read before the view has caught up.
    read, known_depths = await asyncio.gather(
        context.read_conversation(conversation_id, "items"), _depths_in_view(context, conversation_id, query)
    )
    as_of = query.as_of
    if as_of is not None and as_of > read.version:
        raise ApiError(
            400, f"`as_of` is after the conversation's version {read.version}.", code="invalid_value", param="as_of"
        )
    after = await _cursor_depth(context, read, "after", query.after, known_depths)
    before = await _cursor_depth(context, read, "before", query.before, known_depths)
    segment = PathSegment(conversation_id, as_of or read.version)
    page = await _page(context, read, segment, query, after=after, before=before)
    if not page.is_full:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


class _Found(Struct):
    """What is found out about the items of a page. `copies`: the original of each copy, by id. `retracted`: the items that were retracted later.

    `restored`: the items that were restored after the version of the page. Only the log knows whether they were retracted at that version.
    """

    version: int
    copies: dict[str, str] = field(default_factory=dict)
    retracted: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)

    def entry(self, document: Document) -> bytes:
        """Notes the item. Returns its JSON."""
        if (original := document.get("copy_of")) is not None:
            self.copies[document["id"]] = original
        if document["retracted_version"] is not None:
            self.retracted.add(document["id"])
        if document.get("restored_version", 0) > self.version:
            self.restored.add(document["id"])
        return bytes(document["item"], "utf-8")

    async def deleted_copies(self, context: QueryContext, read: ConversationRead, page: Page) -> frozenset[str]:
        """Those items of the page that are copies of deleted items."""
        on_page = {item_id: self.copies[item_id] for item_id in page.ids if item_id in self.copies}
        return await deleted_copies(context, read, on_page)

    async def retracted_then(self, context: QueryContext, read: ConversationRead, page: Page) -> set[str]:
        """Those items of the page that were retracted at its version, and restored later."""
        ids = [item_id for item_id in page.ids if item_id in self.restored]
        if not ids:
            return set()
        return set(ids) - (await unretracted(context.dependencies.log, read.conversation_id, self.version, ids)).keys()


async def _page(
    context: QueryContext,
    read: ConversationRead,
    segment: PathSegment,
    query: ItemsQuery,
    *,
    after: int | None,
    before: int | None,
) -> Page:
    """The page, without items that are deleted. If it has copies of deleted items, it is read again without them.

    With `as_of`, it also has items that are deleted now. They are blanked, unless the caller has the scope `audit`.
    """
    retracted: Document = {"retracted_version": {"$lte": segment.version}}
    if query.as_of is not None:
        retracted["restored_version"] = {"$not": {"$gt": segment.version}}
    where = items_on(read.tenant, segment) | {"$nor": [retracted]}
    deleted: set[str] = set()
    while True:
        items = _Found(segment.version)
        page = await fetch_page(
            context,
            read,
            "items",
            {**where, "id": {"$nin": [*deleted]}} if deleted else where,
            field="depth",
            page=query,
            after=after,
            before=before,
            fields=("id", "item", "copy_of", "retracted_version", "restored_version"),
            entry_of=items.entry,
        )
        page.has_copies = bool(items.copies or deleted)
        if hidden := await items.retracted_then(context, read, page):
            deleted |= hidden
            continue
        if query.as_of is not None and context.principal.may("audit"):
            return page
        found = await items.deleted_copies(context, read, page)
        if query.as_of is not None:
            _blank(page, found | items.retracted)
            return page
        if not found:
            return page
        deleted |= found


def _blank(page: Page, deleted: Collection[str]) -> None:
    """Takes the content out of these items of the page."""
    page.entries = [
        blanked_item_json(msgspec.json.decode(entry)) if item_id in deleted else entry
        for item_id, entry in zip(page.ids, page.entries, strict=True)
    ]


@query_route(
    router,
    "/v1/conversations/{conversation_id}/items/{item_id}",
    IncludeQuery,
    answer=Item,
    answer_headers=CONVERSATION_HEADERS,
)
async def get_item(context: QueryContext, conversation_id: str, item_id: str, _: IncludeQuery) -> Response:
    """The item. 404 when it is deleted or belongs to another conversation."""
    read = await context.read_conversation(conversation_id, "items")
    fields = ("conversation_id", "version", "retracted_version", "item", "copy_of")
    document = await context.find_document(read, "items", item_id, *fields)
    if (
        document is None
        or document["conversation_id"] != conversation_id
        or not _is_unretracted(document, read.version)
    ):
        raise ItemNotFound(item_id)
    copies = {item_id: document["copy_of"]} if "copy_of" in document else {}
    if await deleted_copies(context, read, copies):
        raise ItemNotFound(item_id)
    return shapes.json_response(document["item"].encode(), headers={**read.headers, **(NO_STORE if copies else {})})


def _is_unretracted(document: Document, version: int) -> bool:
    retracted_version: int | None = document["retracted_version"]
    return bool(document["version"] <= version) and (retracted_version is None or retracted_version > version)


async def _depths_in_view(context: QueryContext, conversation_id: str, page: PageQuery) -> dict[str, int]:
    """The depths of those cursors that the view already shows, by item id."""
    cursors = [cursor for cursor in (page.after, page.before) if cursor is not None]
    if not cursors:
        return {}
    collection = context.dependencies.consistency.positions.last_collection("items")
    of_conversation = {"$match": {"conversation_id": conversation_id}}
    documents = await context.dependencies.views.aggregate(collection, Ids(cursors), [of_conversation])
    return {document["id"]: document["depth"] async for document in documents}


async def _cursor_depth(
    context: QueryContext,
    read: ConversationRead,
    param: CursorParam,
    cursor: str | None,
    known_depths: Mapping[str, int],
) -> int | None:
    """The depth of a cursor. Raises ApiError (400) when it is not an item of this conversation."""
    if cursor is None:
        return None
    if cursor in known_depths:
        return known_depths[cursor]
    document = await context.find_document(read, "items", cursor, "conversation_id", "depth")
    if document is None or document["conversation_id"] != read.conversation_id:
        raise unknown_cursor(param, "an item of this conversation")
    depth: int = document["depth"]
    return depth
