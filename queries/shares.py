"""GET /v1/conversations/{id}/shares: who the conversation is shared with, from the log."""

from fastapi import APIRouter
from starlette.responses import Response

from infrastructure.http.headers import etag
from infrastructure.http.shapes import json_response
from infrastructure.http.share_shapes import ConversationShareList, share_list
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["conversations"])


@query_route(
    router, "/v1/conversations/{conversation_id}/shares", answer=ConversationShareList, answer_headers=("ETag",)
)
async def list_shares(context: QueryContext, conversation_id: str) -> Response:
    """The shares. The owner and an admin see all of them. A reader or a writer sees only the shares that give them access."""
    principal = context.principal
    head = await context.dependencies.log.existing_head(conversation_id)
    shares = head.shares
    if head.role(principal) != "owner":
        shares = tuple(share for share in shares if share.subject in (None, principal.subject))
    return json_response(share_list(shares), headers={"etag": etag(head.version)})
