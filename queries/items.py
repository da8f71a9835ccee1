"""GET /v1/conversations/{id}/items and …/items/{item}: items exactly as at one version, from the view of them."""

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from domain.errors import ItemNotFound
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from projections.views.writes import Document, document_key
from queries.consistency import ConversationRead
from queries.paging import Include, Paging, Param, fetch, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["items"])

BRANCH = 0
"""Until heads can be moved, every item is on the one branch there is."""


class ItemsQuery(Include, Paging):
    as_of: int | None = Field(None, ge=1, description="The version to read at. Default: the newest.")


@query_route(router, "/v1/conversations/{conversation_id}/items", ItemsQuery)
async def list_items(context: QueryContext, conversation_id: str, paging: ItemsQuery) -> Response:
    """A page of the conversation's items, newest first. A cursor is any item of the conversation, retracted ones included."""
    # A cursor's place never changes: it may be looked up before it is known how new the view is.
    read, known = await asyncio.gather(
        context.read(conversation_id, "items"), _known_depths(context, conversation_id, paging)
    )
    as_of = paging.as_of
    if as_of is not None and as_of > read.version:
        raise ApiError(
            400, f"`as_of` is after the conversation's version {read.version}.", code="invalid_value", param="as_of"
        )
    after = await _depth(context, read, "after", paging.after, known)
    before = await _depth(context, read, "before", paging.before, known)
    documents, has_more = await fetch(
        context,
        read,
        "items",
        _where(context.principal.tenant, conversation_id, as_of or read.version),
        field="depth",
        paging=paging,
        after=after,
        before=before,
        fields=("id", "item"),
    )
    if len(documents) < paging.limit:
        await context.sources.consistency.check_not_deleted(read)
    bodies = [document["item"].encode() for document in documents]
    body = shapes.item_list(bodies, [document["id"] for document in documents], has_more=has_more)
    return shapes.json_response(body, headers=read.headers)


@query_route(router, "/v1/conversations/{conversation_id}/items/{item_id}", Include)
async def get_item(context: QueryContext, conversation_id: str, item_id: str, _: Include) -> Response:
    """The bare item. 404 when it is not of this conversation, or retracted."""
    read = await context.read(conversation_id, "items")
    document = await context.find(read, "items", item_id, "conversation_id", "version", "retracted_version", "item")
    if document is None or document["conversation_id"] != conversation_id or not _stands(document, read.version):
        raise ItemNotFound(item_id)
    return shapes.json_response(document["item"].encode(), headers=read.headers)


def _where(tenant: str, conversation_id: str, version: int) -> Document:
    """The items that stand at `version`."""
    return {
        "tenant": tenant,
        "conversation_id": conversation_id,
        "branch": BRANCH,
        "version": {"$lte": version},
        "$or": [{"retracted_version": None}, {"retracted_version": {"$gt": version}}],
    }


def _stands(document: Document, version: int) -> bool:
    retracted: int | None = document["retracted_version"]
    return bool(document["version"] <= version) and (retracted is None or retracted > version)


async def _known_depths(context: QueryContext, conversation_id: str, paging: Paging) -> dict[str, int]:
    """Where the cursors stand, as far as the view shows it by now."""
    cursors = [
        document_key(context.principal.tenant, cursor) for cursor in (paging.after, paging.before) if cursor is not None
    ]
    if not cursors:
        return {}
    items = context.sources.views[context.sources.consistency.positions.last_collection("items")]
    which = {"_id": {"$in": cursors}, "conversation_id": conversation_id}
    return {found["id"]: found["depth"] async for found in items.find(which, {"_id": 0, "id": 1, "depth": 1})}


async def _depth(
    context: QueryContext, read: ConversationRead, param: Param, cursor: str | None, known: Mapping[str, int]
) -> int | None:
    """Where a cursor stands. Raises ApiError (400) when it is no item of this conversation."""
    if cursor is None:
        return None
    if cursor in known:
        return known[cursor]
    document = await context.find(read, "items", cursor, "conversation_id", "depth")
    if document is None or document["conversation_id"] != read.conversation_id:
        raise unknown_cursor(param, "item of this conversation")
    depth: int = document["depth"]
    return depth
