"""GET /v1/conversations/{id}/context: what a model would be sent now, with what was left out and why."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pymongo.errors import PyMongoError

from domain.errors import ConversationNotFound
from domain.items import shaped
from infrastructure.context import Asked, Chosen
from infrastructure.http.app import reads
from infrastructure.http.headers import etag
from infrastructure.http.paths import ConversationId
from infrastructure.http.shapes import json_response
from projections.buckets import bucket_of, ident
from projections.read_models import CONTEXT
from queries.caller import Called, Caller
from queries.log_access import LogAway, conversation_parked
from queries.positions import NOWHERE

router = APIRouter(tags=["conversations"])


@reads(router, "/v1/conversations/{conversation_id}/context")
async def get_context(
    conversation_id: ConversationId,
    called: Called,
    model: Annotated[str | None, Query(min_length=1, max_length=256, description="Default: that of a reply.")] = None,
) -> Response:
    """Answers with the items, oldest first, and their tokens as they are counted for the budget."""
    contexts = called.sources.contexts
    (version, headers), snapshot = await asyncio.gather(
        _version(called, conversation_id), contexts.snapshot(called.principal.tenant, conversation_id)
    )
    named = model or await called.sources.model.default_model(called.principal.tenant)
    asked = Asked(model=named, parameters={})
    chosen = await contexts.choose(conversation_id, version, asked, snapshot)
    body = {
        "object": "conversation.context",
        "version": version,
        "model": asked.model,
        "budget": chosen.budget,
        "tokens": chosen.tokens,
        "items": [
            {"id": each.item_id, "tokens": each.tokens, "item": shaped(each.item_id, each.item)}
            for each in chosen.items
        ],
        "left_out": _left_out(chosen),
        "summary": None,
    }
    return json_response(body, headers=headers)


async def _version(called: Caller, conversation_id: str) -> tuple[int, dict[str, str]]:
    """The version to assemble at, and what the answer says of it: the snapshot's, unverified, while Postgres is away."""
    tenant = called.principal.tenant
    try:
        head = await called.sources.log.ask(lambda reader: reader.head(conversation_id))
    except LogAway:
        tail = await called.sources.contexts.snapshot(tenant, conversation_id)
        if tail is None:
            raise
        await _check_not_parked(called, conversation_id)
        return tail.version, {"etag": etag(tail.version), "x-consistency": "unverified"}
    if head is None or head.deleted or head.tenant != tenant:
        raise ConversationNotFound(conversation_id)
    return head.version, {"etag": etag(head.version)}


async def _check_not_parked(called: Caller, conversation_id: str) -> None:
    """A parked conversation's snapshot may be an old one. Where MongoDB is away too, nobody knows; "unverified" it is in any case."""
    try:
        seen = await called.sources.consistency.positions.read()
    except PyMongoError:
        return
    if conversation_id in seen.get(ident(CONTEXT, bucket_of(conversation_id)), NOWHERE).parked:
        raise conversation_parked()


def _left_out(chosen: Chosen) -> list[dict[str, Any]]:
    """The items before those shown, retracted ones not. Null is what is not known where they were not read back to the first."""
    items = chosen.tail.items
    shown = len(chosen.items)
    before = items[: len(items) - shown]
    whole = chosen.tail.whole or bool(items and items[0].parent_id is None)
    if whole and not before:
        return []
    return [
        {
            "from": before[0].item_id if whole else None,
            "to": before[-1].item_id if before else None,
            "count": len(before) if whole else None,
            "reason": "budget",
        }
    ]
