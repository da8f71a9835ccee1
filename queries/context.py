"""GET /v1/conversations/{id}/context: what a model would be sent now, with what was left out and why."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from msgspec import Raw
from pydantic import Field
from pymongo.errors import PyMongoError
from starlette.responses import Response

from context.assembly import ReplyRequest
from context.conversation_settings import Summary
from context.selection import ContextItem
from domain.errors import ConversationNotFound
from domain.events import LeftOut
from domain.items import output_item_json
from infrastructure.http.headers import etag
from infrastructure.http.shapes import json_array, json_response
from projections.views.catalog import CONTEXT
from projections.views.partitions import partition_of, position_key
from queries.log_access import LogAway, conversation_parked
from queries.query_context import QueryContext
from queries.query_route import QueryParameters, query_route
from queries.view_positions import position_at

router = APIRouter(tags=["conversations"])


class ContextQuery(QueryParameters):
    model: str | None = Field(None, min_length=1, max_length=256, description="Default: that of a reply.")


@query_route(router, "/v1/conversations/{conversation_id}/context", ContextQuery)
async def get_context(context: QueryContext, conversation_id: str, query: ContextQuery) -> Response:
    """Answers with the items, oldest first, and their tokens as they are counted for the budget; whatever is asked next joins them."""
    contexts = context.sources.contexts
    asked = ReplyRequest(
        model=query.model or await context.sources.provider.default_model(context.principal.tenant),
        parameters={},
        input_unknown=True,
    )
    (version, headers), snapshot = await asyncio.gather(
        _version(context, conversation_id, asked.model),
        contexts.snapshot(context.principal.tenant, conversation_id, asked.model),
    )
    chosen = await contexts.choose_with_snapshot(conversation_id, version, asked, snapshot)
    body = {
        "object": "conversation.context",
        "version": version,
        "model": asked.model,
        "budget": chosen.budget,
        "tokens": chosen.tokens,
        "items": Raw(json_array([_item(each) for each in chosen.selection.sent])),
        "left_out": left_out_shape(chosen.selection.left_out),
        "summary": summary_shape(chosen.recent.summary, chosen.summary_tokens),
    }
    return json_response(body, headers=headers)


def _item(each: ContextItem) -> bytes:
    pinned = "true" if each.pinned else "false"
    given = output_item_json(each.item_id, each.item)
    return f'{{"id":"{each.item_id}","tokens":{each.tokens},"pinned":{pinned},"item":{given}}}'.encode()


def left_out_shape(left_out: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """What was left out; null is what is not known where nobody read back to the first item."""
    return [{"from": each.first, "to": each.last, "count": each.count, "reason": each.reason} for each in left_out]


def summary_shape(summary: Summary | None, tokens: int) -> dict[str, Any] | None:
    """The summary that stands before the items, with the `tokens` that it was counted as."""
    if summary is None:
        return None
    return {
        "id": summary.compaction_id,
        "text": summary.text,
        "tokens": tokens,
        "from": summary.first,
        "to": summary.last,
        "count": summary.count,
    }


async def _version(context: QueryContext, conversation_id: str, model: str) -> tuple[int, dict[str, str]]:
    """The version to assemble at, and what the answer says of it: the snapshot's, unverified, while Postgres is away."""
    tenant = context.principal.tenant
    try:
        head = await context.sources.log.ask(lambda reader: reader.head(conversation_id))
    except LogAway:
        recent = await context.sources.contexts.snapshot(tenant, conversation_id, model)
        if recent is None:
            raise
        await _check_not_parked(context, conversation_id)
        return recent.version, {"etag": etag(recent.version), "x-consistency": "unverified"}
    if head is None or head.deleted or head.tenant != tenant:
        raise ConversationNotFound(conversation_id)
    return head.version, {"etag": etag(head.version)}


async def _check_not_parked(context: QueryContext, conversation_id: str) -> None:
    """A parked conversation's snapshot may be an old one. Where MongoDB is away too, nobody knows; "unverified" it is in any case."""
    try:
        seen = await context.sources.consistency.positions.read()
    except PyMongoError:
        return
    if conversation_id in position_at(seen, position_key(CONTEXT, partition_of(conversation_id))).parked:
        raise conversation_parked()
