"""GET /v1/responses/{id}/context: what the model was sent for a reply, rendered again from the log at any later time."""

from fastapi import APIRouter
from starlette.responses import Response

from domain.errors import ResponseNotFound
from domain.events import ReplyRequested
from domain.items import output_item
from infrastructure.http.shapes import json_response
from queries.context import left_out_shape, summary_shape
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["responses"])


@query_route(router, "/v1/responses/{response_id}/context")
async def get_response_context(context: QueryContext, response_id: str) -> Response:
    """The `request` as it was sent, and whether its SHA-256 is the recorded one. Always read from the log."""
    requested = await context.dependencies.log.reply_requested(context.principal.tenant, response_id)
    if requested is None or not isinstance(request := requested.event, ReplyRequested):
        raise ResponseNotFound(response_id)
    rerendered = await context.dependencies.contexts.rerender(requested.conversation_id, requested)
    body = {
        "object": "response.context",
        "version": request.shown.version,
        "model": request.model,
        "budget": request.shown.budget,
        "tokens": request.shown.tokens,
        "items": [
            {"id": item.item_id, "tokens": item.tokens, "item": output_item(item.item_id, item.item)}
            for item in rerendered.items
        ],
        "left_out": left_out_shape(request.shown.left_out),
        "summary": summary_shape(rerendered.summary, rerendered.summary_tokens),
        "request": rerendered.body,
        "request_sha256_matches": rerendered.matches,
    }
    return json_response(body)
