"""GET /v1/conversations and /v1/conversations/{id}, from the view `conversations`."""

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from domain.errors import ConversationNotFound
from infrastructure.http import shapes
from infrastructure.http.headers import etag
from infrastructure.http.path_ids import check_id
from infrastructure.ids import CONVERSATION
from projections.views.conversations import shared_with_subject
from projections.views.writes import Document
from queries.log_access import PostgresUnavailable
from queries.metadata_filter import is_metadata_parameter, metadata_filter, metadata_parameter, with_metadata
from queries.paging import CursorParam, PageQuery, fetch_page, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route

router = APIRouter(tags=["conversations"])

_FIELDS = ("id", "metadata", "status", "title", "instructions", "archived", "version", "forked_from")


@query_route(
    router, "/v1/conversations/{conversation_id}", answer=shapes.Conversation, answer_headers=CONVERSATION_HEADERS
)
async def get_conversation(context: QueryContext, conversation_id: str) -> Response:
    """The Conversation; its version is the `ETag`."""
    await context.check_modified(conversation_id)
    read = await context.read_conversation(conversation_id, "conversations")
    document = await context.find_document(read, "conversations", conversation_id, *_FIELDS)
    if document is None:  # deleted after the read started
        raise ConversationNotFound(conversation_id)
    headers = {**read.headers, "etag": etag(document["version"])}
    return shapes.json_response(_shape(document), headers=headers)


class ConversationsQuery(PageQuery):
    status: Literal["active", "ended"] | None = None
    owner: str | None = None

    @classmethod
    def serves(cls, name: str) -> bool:
        return super().serves(name) or is_metadata_parameter(name)


@query_route(
    router,
    "/v1/conversations",
    ConversationsQuery,
    parameters=(metadata_parameter("conversations"),),
    answer=shapes.ConversationList,
)
async def list_conversations(context: QueryContext, query: ConversationsQuery) -> Response:
    """A page of the listed conversations, newest first. A caller gets their own and those shared with them. An admin gets those of the whole tenant.

    Filters: `status`, `owner` and any number of `metadata[key]=value`.
    """
    metadata = metadata_filter(context.request.query_params)
    read = await context.read_tenant("conversations")
    await _check_cursor(context, "after", query.after)
    await _check_cursor(context, "before", query.before)
    where = _filter(query, metadata)
    if not context.principal.may("admin"):
        where |= visible_to(context.principal.subject, with_shares=read.verified)
    page = await fetch_page(
        context,
        read,
        "conversations",
        where,
        field="id",
        page=query,
        after=query.after,
        before=query.before,
        fields=_FIELDS,
        entry_of=lambda document: shapes.encode(_shape(document)),
    )
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=read.headers)


def _shape(document: Document) -> shapes.Conversation:
    fork = document["forked_from"]
    return shapes.conversation(
        document["id"],
        metadata=dict(document["metadata"]),
        status=document["status"],
        title=document["title"],
        instructions=document["instructions"],
        archived=document["archived"],
        version=document["version"],
        forked_from=shapes.ForkedFrom(**fork) if fork else None,
    )


def _filter(query: ConversationsQuery, metadata: Mapping[str, str]) -> Document:
    where: Document = {"listed": True}
    if query.status is not None:
        where["status"] = query.status
    if query.owner is not None:
        where["owner"] = query.owner
    return where | with_metadata(metadata)


def visible_to(subject: str, *, with_shares: bool) -> Document:
    """Matches the subject's own conversations and, if `with_shares`, those shared with them. For each alternative, MongoDB has an index in the list's order."""
    own: Document = {"owner": subject}
    if not with_shares:
        return {"$or": [own]}
    return {"$or": [own, *({"shared_with": share} for share in shared_with_subject(subject))]}


async def _check_cursor(context: QueryContext, param: CursorParam, cursor: str | None) -> None:
    """Raises ApiError (400) unless the cursor is a conversation that the caller may see. A deleted one is
    accepted too, because the list is ordered by id.

    While Postgres is unavailable, any conversation id is accepted.
    """
    if cursor is None:
        return
    check_id(cursor, CONVERSATION, param)
    try:
        head = await context.dependencies.log.head(cursor)
    except PostgresUnavailable:
        return
    if head is None or head.role(context.principal) is None:
        raise unknown_cursor(param, "a conversation")
