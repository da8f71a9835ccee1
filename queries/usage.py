"""GET /v1/usage: what the tenant's replies and summaries came to, by day (UTC) and model, as the providers counted it.

`{object:"list", data:[{object:"usage", date, model, replies, summaries, input_tokens, output_tokens, cached_tokens,
reasoning_tokens, cost_usd}]}`, in order of date and model. Those of conversations that were deleted since are counted; replies that
failed are not.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from domain.events import Usage
from infrastructure.http.app import reads
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from queries.query_context import QueryCall

router = APIRouter(tags=["usage"])

USUAL_DAYS: Final = 31
MAX_DAYS: Final = 366
AMOUNTS: Final = ("replies", "summaries", *Usage.__struct_fields__, "cost")
NANODOLLARS: Final = 1_000_000_000


@reads(router, "/v1/usage")
async def get_usage(
    context: QueryCall,
    start: Annotated[date | None, Query(description="The first day; a month before `end` where it is absent.")] = None,
    end: Annotated[date | None, Query(description="The last day; today where it is absent.")] = None,
    model: Annotated[str | None, Query(description="Only this model's.")] = None,
) -> Response:
    """What replies, and the summaries of contexts, came to, day by day."""
    last = end or datetime.now(UTC).date()
    first = start or last - timedelta(days=min(USUAL_DAYS, (last - date.min).days) - 1)
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
    if model is not None:
        where["model"] = model
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
