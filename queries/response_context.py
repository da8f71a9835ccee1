"""GET /v1/responses/{id}/context: what the model was sent for a reply, rendered again from the log, at any later time."""

from fastapi import APIRouter
from starlette.responses import Response

from domain.errors import ResponseNotFound
from domain.events import ReplyDeleted, ReplyRequested
from domain.items import output_item
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.http.shapes import json_response
from queries.context import left_out_shape, summary_shape
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["responses"])


@query_route(router, "/v1/responses/{response_id}/context")
async def get_response_context(context: QueryContext, response_id: str) -> Response:
    """Answers with the `request` as it was sent, and whether its SHA-256 is the one on record. It always comes from the log."""
    tenant = context.principal.tenant
    requested = await context.sources.log.ask(lambda reader: _requested(reader, tenant, response_id))
    if requested is None or not isinstance(request := requested.event, ReplyRequested):
        raise ResponseNotFound(response_id)
    again = await context.sources.contexts.rerender(requested.conversation_id, requested)
    body = {
        "object": "response.context",
        "version": request.shown.version,
        "model": request.model,
        "budget": request.shown.budget,
        "tokens": request.shown.tokens,
        "items": [
            {"id": each.item_id, "tokens": each.tokens, "item": output_item(each.item_id, each.item)}
            for each in again.items
        ],
        "left_out": left_out_shape(request.shown.left_out),
        "summary": summary_shape(again.summary, again.summary_tokens),
        "request": again.body,
        "request_sha256_matches": again.matches,
    }
    return json_response(body)


async def _requested(reader: EventReader, tenant: str, response_id: str) -> Recorded | None:
    """What the reply was asked with; None where there is none, or it was deleted, alone or with its conversation."""
    conversation_id = await reader.conversation_of(tenant, response_id)
    head = await reader.head(conversation_id) if conversation_id else None
    if conversation_id is None or head is None or head.deleted:
        return None
    events = await reader.item(conversation_id, response_id)
    return None if any(isinstance(each.event, ReplyDeleted) for each in events) else events[0]
