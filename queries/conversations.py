"""GET /v1/conversations and /v1/conversations/{id}: what is said of conversations, from the view of them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from domain.errors import ConversationNotFound
from infrastructure.http import shapes
from infrastructure.http.app import reads
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.http.path_ids import ConversationId, check_id
from infrastructure.ids import CONVERSATION
from projections.views.writes import Document
from queries.consistency import Read
from queries.log_access import LogAway
from queries.paging import Paged, Param, fetch, unknown_cursor
from queries.query_context import QueryCall, QueryContext

router = APIRouter(tags=["conversations"])

MAX_METADATA = 16
_METADATA = re.compile(r"metadata\[(.+)\]", re.DOTALL)
_SHOWN = ("id", "metadata", "status", "title", "instructions", "version")


@reads(router, "/v1/conversations/{conversation_id}")
async def get_conversation(conversation_id: ConversationId, context: QueryCall) -> Response:
    """The Conversation; its version is the `ETag`."""
    read = await context.read(conversation_id, "conversations")
    document = await context.find(read, "conversations", conversation_id, *_SHOWN)
    if document is None:  # deleted since
        raise ConversationNotFound(conversation_id)
    headers = {**read.headers, "etag": etag(document["version"])}
    return shapes.json_response(_shape(document), headers=headers)


async def metadata_filter(request: Request) -> Mapping[str, str]:
    """The pairs asked for as `metadata[key]=value`. Raises ApiError (400)."""
    asked: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if (match := _METADATA.fullmatch(name)) is not None:
            asked[match[1]] = value
    for name in asked:
        if "\0" in name:
            raise ApiError(400, "A key of `metadata` holds a NUL character.", code="invalid_value", param="metadata")
    if len(asked) > MAX_METADATA:
        raise ApiError(400, f"`metadata` has at most {MAX_METADATA} keys.", code="invalid_value", param="metadata")
    return asked


@reads(router, "/v1/conversations")
async def list_conversations(
    context: QueryCall,
    paging: Paged,
    metadata: Annotated[Mapping[str, str], Depends(metadata_filter)],
    status: Annotated[Literal["active", "ended"] | None, Query()] = None,
    owner: Annotated[str | None, Query()] = None,
) -> Response:
    """A page of the conversations that are listed, newest first. Also `metadata[key]=value`, as many as need be."""
    read = await context.read_everything("conversations")
    await _check_cursor(context, read, "after", paging.after)
    await _check_cursor(context, read, "before", paging.before)
    where = _where(context.principal.tenant, status, owner, metadata)
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
