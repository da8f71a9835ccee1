"""GET /v1/projections: the position of each view, and how far it is behind the log. For dashboards.

`{object:"list", data:[{name, version, state, position, head, lag_seconds, partitions:[{bucket, position, state}], parked:[{conversation_id,
version, position, type, error, message, at}]}]}`:

state        `live`, `rebuilding`, `absent` (no projector has started the view yet, or the position of a partition was lost), or `stale`
             (the log moved back, so the view shows events that the log no longer has; it will be rebuilt)
position     the view shows all events up to this position of the log: that of the partition that is furthest behind
head         the log's last position
lag_seconds  the age of the first event after `position`; 0 if there is none. Another partition may show this event already
bucket       the number of a partition
parked       the conversations whose events the view no longer applies, each with the event that could not be applied. Only those
             that the caller may see are listed. `scripts/run rebuild --conversation ID` repairs one

While Postgres is unavailable, or if the log moves back during the read, `head` and `lag_seconds` are null, and the answer has
`X-Consistency: unverified`. While Postgres is unavailable, only an admin is shown parked conversations, because Postgres knows who
else may see them.
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
    """Those parked conversations that the caller may see. An admin sees all of them, deleted ones included."""
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
