"""GET /v1/usage: the tokens and costs of replies and summaries by day (UTC) and model, as counted by the providers.

The store counts `prefix_tokens`: the tokens at the beginning of a request that the last request of the same model in
the conversation began with too (`shared_prefix`).

A caller sees only their own use. An admin sees the use of the whole tenant.

`{object:"list", data:[{object:"usage", date, model, replies, summaries, input_tokens, output_tokens, cached_tokens,
reasoning_tokens, cache_write_tokens, prefix_tokens, cost_usd}]}`, ordered by date and model. `cost_usd` is null if a price is not known. Deleted conversations count. Replies that did not complete do not.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter
from msgspec import Struct
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from domain.events import Usage
from infrastructure.http.errors import ApiError
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["usage"])

DEFAULT_DAYS: Final = 31
MAX_DAYS: Final = 366
MAX_ROWS: Final = 20_000
COUNTS: Final = ("replies", "summaries", *Usage.__struct_fields__, "prefix_tokens")
AMOUNTS: Final = (*COUNTS, "cost", "unpriced")
NANODOLLARS: Final = 1_000_000_000


class UsageRow(Struct, frozen=True, kw_only=True, tag_field="object", tag="usage"):
    """The tokens and the cost of a model on a day. `cost_usd` is null if the price of any of its replies and summaries was not known."""

    date: str
    model: str
    replies: int
    summaries: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    prefix_tokens: int
    cost_usd: float | None


class UsageList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """Rows, by day and model."""

    data: list[UsageRow]


def _day(text: str) -> date:
    """The day that is written as YYYY-MM-DD. Raises ValueError for any other text."""
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:  # fromisoformat also accepts weeks: 2026-W05
        raise ValueError("it must be a day, such as 2026-01-31")
    return date.fromisoformat(text)


Day = Annotated[date, BeforeValidator(_day)]


class UsageQuery(QueryParameters):
    start: Day | None = Field(None, description="The first day. Default: 30 days before `end`.")
    end: Day | None = Field(None, description="The last day. Default: today.")
    model: str | None = Field(None, description="Only this model.")


@query_route(router, "/v1/usage", UsageQuery, answer=UsageList)
async def get_usage(context: QueryContext, query: UsageQuery) -> Response:
    """Tokens and costs by day and model."""
    last = query.end or datetime.now(UTC).date()
    first = query.start or last - timedelta(days=min(DEFAULT_DAYS - 1, (last - date.min).days))
    if first > last:
        raise ApiError(400, "`start` is after `end`.", code="invalid_value", param="start")
    if (last - first).days >= MAX_DAYS:
        raise ApiError(400, f"`start` to `end` is more than {MAX_DAYS} days.", code="invalid_value", param="start")
    read = await context.read_tenant("usage")
    where: dict[str, Any] = {"date": {"$gte": first.isoformat(), "$lte": last.isoformat()}}
    if not context.principal.may("admin"):
        where["subject"] = context.principal.subject
    if query.model is not None:
        where["model"] = query.model
    sums = {name: {"$sum": f"${name}"} for name in AMOUNTS}
    fields = {
        "_id": 0,
        "object": {"$literal": "usage"},
        "date": "$_id.date",
        "model": "$_id.model",
        **dict.fromkeys(COUNTS, 1),
        "cost_usd": {"$cond": ["$unpriced", None, {"$divide": ["$cost", NANODOLLARS]}]},
    }
    stages: list[dict[str, Any]] = [
        {"$group": {"_id": {"date": "$date", "model": "$model"}, **sums}},
        {"$sort": {"_id": 1}},
        {"$limit": MAX_ROWS + 1},
        {"$project": fields},
    ]
    rows = await context.aggregate(read, "usage", where, stages)
    if len(rows) > MAX_ROWS:
        message = f"The answer has more than {MAX_ROWS} rows. Ask for fewer days, or for one model."
        raise ApiError(400, message, code="too_many_rows", param="start")
    body = {"object": "list", "data": rows}
    return json_response(body, headers=read.headers)
