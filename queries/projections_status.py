"""GET /v1/projections: the position of each view, and how far it is behind the log. For dashboards.

`state`: `live`, `rebuilding`, `absent` (never started, or a position was lost), or `stale` (the log moved back)
`position`: the position of the partition that is furthest behind
`lag_seconds`: the age of the first event after `position`; 0 if there is none
`bucket`: the number of a partition
`parked`: the parked conversations that the caller may see

While Postgres is unavailable, or if the log moves back during the read, `head` and `lag_seconds` are null. While
Postgres is unavailable, only an admin is shown parked conversations.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS
from infrastructure.http.shapes import json_response
from queries.log_access import PostgresUnavailable
from queries.query_context import QueryContext
from queries.query_route import query_route
from queries.view_reports import ViewReport

router = APIRouter(tags=["projections"])


class ViewReportList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """All views."""

    data: Sequence[ViewReport]


@query_route(router, "/v1/projections", answer=ViewReportList)
async def list_projections(context: QueryContext) -> Response:
    """The status of each view."""
    view_reports = context.dependencies.view_reports
    reports = await view_reports.read(await _visible(context, await view_reports.parked(context.principal.tenant)))
    unverified = any(report.head is None for report in reports)
    return json_response(ViewReportList(data=reports), headers={"x-consistency": "unverified"} if unverified else {})


async def _visible(context: QueryContext, parked: Sequence[str]) -> frozenset[str]:
    """The parked conversations that the caller may see. An admin sees deleted ones too."""
    if context.principal.may("admin"):
        return frozenset(parked)
    log = context.dependencies.log
    visible: set[str] = set()
    try:
        for start in range(0, len(parked), MAX_BATCH_LOOKUPS):
            page = parked[start : start + MAX_BATCH_LOOKUPS]
            ends = await log.head_of_each(page)
            visible |= {
                conversation
                for conversation, end in zip(page, ends, strict=True)
                if end is not None and end.role(context.principal) is not None
            }
    except PostgresUnavailable:
        return frozenset()
    return frozenset(visible)
