"""GET /v1/usage: what the tenant's replies and summaries came to, by day (UTC) and model, as the providers counted it.

`{object:"list", data:[{object:"usage", date, model, replies, summaries, input_tokens, output_tokens, cached_tokens,
reasoning_tokens, cost_usd}]}`, in order of date and model. Those of conversations that were deleted since are counted; replies that
failed are not.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from domain.events import Usage
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import QueryParameters, query_route

router = APIRouter(tags=["usage"])

USUAL_DAYS: Final = 31
MAX_DAYS: Final = 366
AMOUNTS: Final = ("replies", "summaries", *Usage.__struct_fields__, "cost")
NANODOLLARS: Final = 1_000_000_000


class UsageQuery(QueryParameters):
    start: date | None = Field(None, description="The first day. Default: a month before `end`.")
    end: date | None = Field(None, description="The last day. Default: today.")
    model: str | None = Field(None, description="Only this model.")


@query_route(router, "/v1/usage", UsageQuery)
async def get_usage(context: QueryContext, query: UsageQuery) -> Response:
    """What replies, and the summaries of contexts, came to, day by day."""
    last = query.end or datetime.now(UTC).date()
    first = query.start or last - timedelta(days=min(USUAL_DAYS, (last - date.min).days) - 1)
    if first > last:
        raise ApiError(400, "`start` is after `end`.", code="invalid_value", param="start")
    if (last - first).days >= MAX_DAYS:
        raise ApiError(
            400, f"`start` and `end` are more than {MAX_DAYS} days apart.", code="invalid_value", param="start"
        )
    read = await context.read_everything("usage")
    where: dict[str, Any] = {
        "tenant": context.principal.tenant,
        "date": {"$gte": first.isoformat(), "$lte": last.isoformat()},
    }
    if query.model is not None:
        where["model"] = query.model
    sums = {name: {"$sum": f"${name}"} for name in AMOUNTS}
    shown = {
        "_id": 0,
        "object": {"$literal": "usage"},
        "date": "$_id.date",
        "model": "$_id.model",
        **dict.fromkeys(AMOUNTS[:-1], 1),
        "cost_usd": {"$divide": ["$cost", NANODOLLARS]},
    }
    pipeline = [
        {"$match": where},
        {"$group": {"_id": {"date": "$date", "model": "$model"}, **sums}},
        {"$sort": {"_id": 1}},
        {"$project": shown},
    ]
    body = {"object": "list", "data": await context.select(read, "usage", pipeline)}
    return json_response(body, headers=read.headers)
