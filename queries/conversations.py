"""GET /v1/conversations and /v1/conversations/{id}: what is said of conversations, from the view of them."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from starlette.datastructures import QueryParams
from starlette.responses import Response

from domain.errors import ConversationNotFound
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.http.path_ids import check_id
from infrastructure.ids import CONVERSATION
from projections.views.writes import Document
from queries.consistency import Read
from queries.log_access import LogAway
from queries.paging import Paging, Param, fetch, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["conversations"])

MAX_METADATA = 16
_METADATA = re.compile(r"metadata\[(.+)\]", re.DOTALL)
_SHOWN = ("id", "metadata", "status", "title", "instructions", "version")


@query_route(router, "/v1/conversations/{conversation_id}")
async def get_conversation(context: QueryContext, conversation_id: str) -> Response:
    """The Conversation; its version is the `ETag`."""
    read = await context.read(conversation_id, "conversations")
    document = await context.find(read, "conversations", conversation_id, *_SHOWN)
    if document is None:  # deleted since
        raise ConversationNotFound(conversation_id)
    headers = {**read.headers, "etag": etag(document["version"])}
    return shapes.json_response(_shape(document), headers=headers)


class ConversationsQuery(Paging):
    status: Literal["active", "ended"] | None = None
    owner: str | None = None


def metadata_filter(query: QueryParams) -> Mapping[str, str]:
    """The pairs of all `metadata[key]=value`. Raises ApiError (400)."""
    pairs: dict[str, str] = {}
    for name, value in query.multi_items():
        if (match := _METADATA.fullmatch(name)) is not None:
            pairs[match[1]] = value
    for name in pairs:
        if "\0" in name:
            raise ApiError(400, "A key of `metadata` contains a NUL character.", code="invalid_value", param="metadata")
    if len(pairs) > MAX_METADATA:
        raise ApiError(400, f"`metadata` has at most {MAX_METADATA} keys.", code="invalid_value", param="metadata")
    return pairs


@query_route(router, "/v1/conversations", ConversationsQuery)
async def list_conversations(context: QueryContext, paging: ConversationsQuery) -> Response:
    """A page of the conversations that are listed, newest first. Also `metadata[key]=value`, as many as need be."""
    metadata = metadata_filter(context.request.query_params)
    read = await context.read_everything("conversations")
    await _check_cursor(context, read, "after", paging.after)
    await _check_cursor(context, read, "before", paging.before)
    where = _where(context.principal.tenant, paging.status, paging.owner, metadata)
    documents, has_more = await fetch(
        context,
        read,
        "conversations",
        where,
        field="id",
        paging=paging,
        after=paging.after,
        before=paging.before,
        fields=_SHOWN,
    )
    bodies = [shapes.encode(_shape(document)) for document in documents]
    body = shapes.item_list(bodies, [document["id"] for document in documents], has_more=has_more)
    return shapes.json_response(body, headers=read.headers)


def _shape(document: Document) -> dict[str, Any]:
    return shapes.conversation(
        document["id"],
        metadata=dict(document["metadata"]),
        status=document["status"],
        title=document["title"],
        instructions=document["instructions"],
        version=document["version"],
    )


def _where(tenant: str, status: str | None, owner: str | None, metadata: Mapping[str, str]) -> Document:
    where: Document = {"tenant": tenant, "listed": True}
    if status is not None:
        where["status"] = status
    if owner is not None:
        where["owner"] = owner
    if metadata:
        where["$and"] = [{"metadata": {"$elemMatch": {"$eq": list(pair)}}} for pair in metadata.items()]
    return where


async def _check_cursor(context: QueryContext, read: Read, param: Param, cursor: str | None) -> None:
    """A cursor is a conversation of this tenant, one that was deleted since included: its id still has a place."""
    if cursor is None:
        return
    check_id(cursor, CONVERSATION, param)
    if await context.find(read, "conversations", cursor, "id") is not None:
        return
    try:
        head = await context.sources.log.ask(lambda reader: reader.head(cursor))
    except LogAway:
        return
    if head is None or head.tenant != context.principal.tenant:
        raise unknown_cursor(param, "conversation")
