"""GET /v1/usage: tokens and costs of replies, summaries and titles, by day (UTC), model, user, API key and
conversation.

Providers count the tokens. The store counts `prefix_tokens`: the tokens at the beginning of a request that the last
request to the same model in the conversation also had. `cost_usd` is null if a price is not known. Deleted
conversations count. Replies that did not complete do not count.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter
from msgspec import UNSET, Struct, UnsetType
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from domain.events import Usage
from infrastructure.http.errors import ApiError
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import query_route
from queries.time_range import MAX_SECONDS

router = APIRouter(tags=["usage"])

DEFAULT_DAYS: Final = 31
MAX_DAYS: Final = 366
MAX_ROWS: Final = 20_000
FIRST_VERSION: Final = 7
"""The first version of the view `usage` that has all groups."""

COUNTS: Final = ("replies", "summaries", "titles", *Usage.__struct_fields__, "prefix_tokens")
AMOUNTS: Final = (*COUNTS, "cost", "unpriced")
GROUPS: Final = {
    "day": "date",
    "model": "model",
    "user": "user",
    "key": "key",
    "conversation": "conversation",
    "tenant": "tenant",
}
"""The groups, and the field that each has in a row."""

SOURCES: Final[dict[str, Any]] = {
    "day": "$date",
    "model": "$model",
    "user": "$subject",
    "key": {"$cond": [{"$eq": ["$key", ""]}, None, "$key"]},
    "conversation": "$conversation",
    "tenant": "$tenant",
}

NANODOLLARS: Final = 1_000_000_000


class UsageRow(Struct, frozen=True, kw_only=True, tag_field="object", tag="usage"):
    """The tokens and the cost of one group. It has the fields that `group_by` names: `day` is the field `date`. `key` is null for replies that no API key asked for, for summaries and titles, for replies from before the store recorded the key, and for queued replies that another process took over. `cost_usd` is null if the price of any of its replies, summaries and titles was not known."""

    date: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    key: str | None | UnsetType = UNSET
    conversation: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    replies: int
    summaries: int
    titles: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    prefix_tokens: int
    cost_usd: float | None


class UsageList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """Rows, ordered by the groups in the order of `group_by`."""

    data: list[UsageRow]


def _day(text: str) -> date:
    """Raises ValueError for any text other than YYYY-MM-DD."""
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:  # fromisoformat also accepts weeks: 2026-W05
        raise ValueError("it must be a day, such as 2026-01-31")
    return date.fromisoformat(text)


Day = Annotated[date, BeforeValidator(_day)]


class UsageQuery(QueryParameters):
    start: Day | None = Field(None, description="The first day. Default: 30 days before `end`.")
    end: Day | None = Field(None, description="The last day. Default: today.")
    since: int | None = Field(
        None,
        ge=0,
        le=MAX_SECONDS,
        description="In place of `start`: seconds since 1970 (UTC). All of the day of this second counts.",
    )
    until: int | None = Field(
        None,
        ge=1,
        le=MAX_SECONDS,
        description="In place of `end`: seconds since 1970 (UTC). The last day is the day of the second before this time.",
    )
    model: str | None = Field(None, description="Only this model.")
    conversation: str | None = Field(None, description="Only this conversation.")
    group_by: str = Field(
        "day,model", description="Groups, separated by commas: `day`, `model`, `user`, `key`, `conversation`, `tenant`."
    )

    def days(self) -> tuple[date, date]:
        """The first and the last day. Raises ApiError (400)."""
        for day, second in (("start", "since"), ("end", "until")):
            if getattr(self, day) is not None and getattr(self, second) is not None:
                raise ApiError(400, f"Send either `{day}` or `{second}`.", code="invalid_value", param=second)
        last = self.end or (datetime.now(UTC).date() if self.until is None else _day_of(self.until - 1))
        first = self.start or (None if self.since is None else _day_of(self.since))
        if first is None:
            first = last - timedelta(days=min(DEFAULT_DAYS - 1, (last - date.min).days))
        param = "start" if self.since is None else "since"
        if first > last:
            raise ApiError(400, f"`{param}` is after the end.", code="invalid_value", param=param)
        if (last - first).days >= MAX_DAYS:
            raise ApiError(400, f"The time is longer than {MAX_DAYS} days.", code="invalid_value", param=param)
        return first, last

    def groups(self) -> list[str]:
        """Raises ApiError (400)."""
        groups = self.group_by.split(",")
        if len(set(groups)) < len(groups) or not GROUPS.keys() >= set(groups):
            message = f"`group_by` must be different names out of {', '.join(GROUPS)}, separated by commas."
            raise ApiError(400, message, code="invalid_value", param="group_by")
        return groups


def _day_of(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


@query_route(router, "/v1/usage", UsageQuery, answer=UsageList)
async def get_usage(context: QueryContext, query: UsageQuery) -> Response:
    """Tokens and costs, by day and model or by other groups. A caller gets their own use. An admin gets the use of the whole tenant."""
    first, last = query.days()
    groups = query.groups()
    conversation: Any = query.conversation or ({"$gt": ""} if "conversation" in groups else "")
    read = await context.read_tenant("usage")
    if read.versions["usage"] < FIRST_VERSION:
        message = "The view `usage` is being built again after an upgrade. Try again when it is ready."
        raise ApiError(503, message, code="read_models_behind")
    where: dict[str, Any] = {
        "date": {"$gte": first.isoformat(), "$lte": last.isoformat()},
        "conversation": conversation,
    }
    if not context.principal.may("admin"):
        where["subject"] = context.principal.subject
    if query.model is not None:
        where["model"] = query.model
    sums = {name: {"$sum": f"${name}"} for name in AMOUNTS}
    fields = {
        "_id": 0,
        "object": {"$literal": "usage"},
        **{GROUPS[group]: f"$_id.{GROUPS[group]}" for group in groups},
        **dict.fromkeys(COUNTS, 1),
        "cost_usd": {"$cond": ["$unpriced", None, {"$divide": ["$cost", NANODOLLARS]}]},
    }
    stages: list[dict[str, Any]] = [
        {"$group": {"_id": {GROUPS[group]: SOURCES[group] for group in groups}, **sums}},
        {"$sort": {"_id": 1}},
        {"$limit": MAX_ROWS + 1},
        {"$project": fields},
    ]
    rows = await context.aggregate(read, "usage", where, stages)
    if len(rows) > MAX_ROWS:
        message = f"The answer has more than {MAX_ROWS} rows. Ask for fewer days, other groups, or one model."
        raise ApiError(400, message, code="too_many_rows", param="start")
    body = {"object": "list", "data": rows}
    return json_response(body, headers=read.headers)
