"""GET /v1/conversations/{id}/context: what would be sent to a model now, and what would be left out and why."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Raw, Struct, UnsetType, field
from pydantic import Field
from pymongo.errors import PyMongoError
from starlette.responses import Response

from context.choice import ReplyRequest
from context.conversation_settings import Summary
from context.selection import ContextItem
from domain.events import LeftOut
from domain.items import PLAIN_FORMS, Item, around_text, encodable_output_item, output_item
from infrastructure.event_log.incarnation import StreamVersion
from infrastructure.http.headers import etag
from infrastructure.http.item_schemas import EncodableItem
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.shapes import json_response
from projections.views.catalog import CONTEXT
from projections.views.partitions import partition_of, position_key
from queries.log_access import PostgresUnavailable, conversation_parked
from queries.not_modified import NO_STORE
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.view_positions import position_at

router = APIRouter(tags=["conversations"])


class SentItem(Struct, frozen=True, gc=False):
    """An item that is sent to a model, and how many tokens of the budget it takes."""

    id: str
    tokens: int
    item: EncodableItem
    pinned: bool | UnsetType = UNSET


class LeftOutItems(Struct, frozen=True):
    """The items from `from` to `to`, which are not sent to a model, and the reason. `from` or `to` is null if the item at this
    end was not read; then `count` includes deleted items. `count` is null in older records.
    """

    first: str | None = field(name="from")
    to: str | None
    count: int | None
    reason: str


class SentSummary(Struct, frozen=True, kw_only=True):
    """The summary that is sent before the items. It stands for the `count` items from `from` to `to`."""

    id: str
    text: str
    tokens: int
    first: str = field(name="from")
    to: str
    count: int


class ConversationContext(Struct, frozen=True, kw_only=True, tag_field="object", tag="conversation.context"):
    """The items and the summary that would be sent to a model, and their tokens."""

    version: int
    model: str
    budget: int
    tokens: int
    items: list[SentItem]
    left_out: list[LeftOutItems]
    summary: SentSummary | None


class ContextQuery(QueryParameters):
    model: str | None = Field(
        None, min_length=1, max_length=256, description="Default: the model that a reply would use."
    )


@query_route(
    router,
    "/v1/conversations/{conversation_id}/context",
    ContextQuery,
    answer=ConversationContext,
    answer_headers=CONVERSATION_HEADERS,
    errors=(502, 504),
)
async def get_context(context: QueryContext, conversation_id: str, query: ContextQuery) -> Response:
    """The items, oldest first, each with the number of tokens that it takes of the budget. The next request's input would be added to the items."""
    await context.check_modified(conversation_id, inherits=True)
    contexts = context.dependencies.contexts
    model = query.model or await context.dependencies.provider.default_model(context.principal.tenant)
    reply_request = ReplyRequest(model=model, parameters={}, input_unknown=True)
    (at, headers), snapshot = await asyncio.gather(
        _version(context, conversation_id, model),
        contexts.snapshot(conversation_id, model),
    )
    choice = await contexts.choose_with_snapshot(conversation_id, at, reply_request, snapshot)
    body = ConversationContext(
        version=at.version,
        model=model,
        budget=choice.budget,
        tokens=choice.tokens,
        items=_sent_items(choice.selection.sent),
        left_out=left_out_shape(choice.selection.left_out),
        summary=summary_shape(choice.recent.summary, choice.summary_tokens),
    )
    changes_elsewhere = choice.recent.is_inherited or choice.recent.has_copies
    return json_response(body, headers={**headers, **(NO_STORE if changes_elsewhere else {})})


def _around_text(form: Item) -> tuple[str, str]:
    """The JSON before the text of a plain message, and after it."""
    before, after = around_text(output_item("id", form))
    return before.removeprefix('{"id":"id'), after + ',"pinned":false},'


_BEFORE, _AFTER = zip(("", ""), *map(_around_text, PLAIN_FORMS[1:]), strict=True)


class _BetweenIds(dict[int, str]):
    """The JSON between an item's two ids, by the item's number of tokens. Many items have the same number of tokens."""

    def __missing__(self, tokens: int) -> str:
        between = self[tokens] = f'","tokens":{tokens},"item":{{"id":"'
        return between


def _sent_items(sent: Sequence[ContextItem]) -> list[SentItem]:
    """An encoded JSON array in place of the list. To make an object of each item would take three times as long."""
    between = _BetweenIds()
    parts: list[Any] = ["["]
    for item in sent:
        if form := item.form:
            item_id = item.item_id
            parts += ('{"id":"', item_id, between[item.tokens], item_id, _BEFORE[form], item.stored, _AFTER[form])
        else:
            parts += (_encoded(item), ",")
    parts[-1] = parts[-1].removesuffix(",")
    parts.append("]")
    return cast("list[SentItem]", Raw("".join(parts)))


def _encoded(item: ContextItem) -> str:
    encodable = encodable_output_item(item.item_id, item.item)
    return msgspec.json.encode(SentItem(item.item_id, item.tokens, encodable, item.pinned)).decode()


def left_out_shape(left_out: Sequence[LeftOut]) -> list[LeftOutItems]:
    return [LeftOutItems(part.first, part.last, part.count, part.reason) for part in left_out]


def summary_shape(summary: Summary | None, tokens: int) -> SentSummary | None:
    if summary is None:
        return None
    return SentSummary(
        id=summary.compaction_id,
        text=summary.text,
        tokens=tokens,
        first=summary.first,
        to=summary.last,
        count=summary.count,
    )


async def _version(context: QueryContext, conversation_id: str, model: str) -> tuple[StreamVersion, dict[str, str]]:
    """The conversation's version, and the headers of the answer. Without Postgres, the snapshot's version.

    Raises ConversationNotFound. Without Postgres, raises PostgresUnavailable if there is no snapshot, and ApiError
    (503) if the conversation is parked.
    """
    try:
        head = await context.dependencies.log.existing_head(conversation_id)
    except PostgresUnavailable:
        recent = await context.dependencies.contexts.snapshot(conversation_id, model)
        if recent is None:
            raise
        if not context.principal.may("admin"):
            await context.read_conversation(
                conversation_id
            )  # while the shares cannot be read, only the owner may see the conversation
        await _check_not_parked(context, conversation_id)
        return recent.stream_version, {"etag": etag(recent.version), "x-consistency": "unverified"}
    return head.stream_version, {"etag": etag(head.version)}


async def _check_not_parked(context: QueryContext, conversation_id: str) -> None:
    """Raises ApiError 503 if the conversation is parked, because its snapshot may be old. Without MongoDB, this cannot
    be checked.
    """
    try:
        positions = await context.dependencies.consistency.positions.read()
    except PyMongoError:
        return
    if conversation_id in position_at(positions, position_key(CONTEXT, partition_of(conversation_id))).parked:
        raise conversation_parked()
