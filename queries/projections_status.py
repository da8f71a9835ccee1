"""GET /v1/projections: how far each view has come and how far it is behind. Used by dashboards, and by `health.py`.

`{object:"list", data:[{name, version, state, position, head, lag_seconds, partitions:[{bucket, position, state}], parked:[{conversation_id,
version, position, type, error, message, at}]}]}`:

state        `live`, `rebuilding`, `absent` before a projector has started the view, or `stale`: the log moved back, so the view
             shows events that the log no longer has. It will be rebuilt
position     the last event that the view shows, in the partition that is furthest behind (`bucket` is the partition's number)
head         the log's last position
lag_seconds  the age of the oldest event that the view does not show yet; 0 when it shows all
parked       the caller's conversations that the view leaves out, with the event that could not be applied.
             `scripts.rebuild --conversation` repairs one.

While Postgres is unavailable, `head` and `lag_seconds` are null, and the answer has `X-Consistency: unverified`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter
from msgspec import Struct, field, structs
from starlette.responses import Response

from infrastructure.event_log.incarnation import LogMoved
from infrastructure.http.shapes import json_response
from projections.views.catalog import ALL_VIEWS
from projections.views.view_position import Parked, ViewPosition, status_of
from queries.log_access import LogAccess, PostgresUnavailable
from queries.query_context import Dependencies, QueryContext
from queries.query_route import query_route
from queries.view_positions import positions_of

router = APIRouter(tags=["projections"])

MAX_HEALTHY_LAG_SECONDS: Final = 10.0
"""A view that is further behind is not healthy."""


class PartitionReport(Struct, frozen=True, kw_only=True):
    """One partition of a view; `bucket` is its number."""

    partition: int = field(name="bucket")
    position: int
    state: str


class ParkedConversation(Struct, frozen=True, kw_only=True):
    """A conversation that a view leaves out, and the event that could not be applied."""

    conversation_id: str
    version: int
    position: int
    type: str
    error: str
    message: str | None
    at: str


class ViewReport(Struct, frozen=True, kw_only=True):
    """One view in the answer of GET /v1/projections."""

    name: str
    version: int
    state: str
    position: int
    head: int | None
    lag_seconds: float | None
    partitions: tuple[PartitionReport, ...]
    parked: tuple[ParkedConversation, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether the view is live and keeps up with the log."""
        return self.state == "live" and self.lag_seconds is not None and self.lag_seconds <= MAX_HEALTHY_LAG_SECONDS


class ViewReportList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """All views."""

    data: Sequence[ViewReport]


@query_route(router, "/v1/projections", answer=ViewReportList)
async def list_projections(context: QueryContext) -> Response:
    """The status of each view."""
    reports = await view_reports(context.dependencies, context.principal.tenant)
    unverified = any(report.head is None for report in reports)
    return json_response(ViewReportList(data=reports), headers={"x-consistency": "unverified"} if unverified else {})


async def view_reports(dependencies: Dependencies, tenant: str | None = None) -> Sequence[ViewReport]:
    """All views, with this tenant's parked conversations. Raises PyMongoError."""
    consistency = dependencies.consistency
    positions = {view: positions_of(await consistency.positions.read(), view) for view in ALL_VIEWS}
    reports = {view: _report(of_view, tenant) for view, of_view in positions.items()}
    log = dependencies.log
    try:
        end = await log.end()
        for view, report in reports.items():
            is_of_log = await consistency.checked.are_of(end.incarnation, positions[view])
            lag = await _lag(log, report.position, end.position)
            state = report.state if is_of_log else "stale"
            reports[view] = structs.replace(report, head=end.position, lag_seconds=lag, state=state)
    except (PostgresUnavailable, LogMoved):
        reports = {view: _report(of_view, tenant) for view, of_view in positions.items()}
    return list(reports.values())


def _report(positions: Sequence[ViewPosition], tenant: str | None) -> ViewReport:
    status = status_of(positions)
    parked = {conversation: entry for conversation, entry in status.parked.items() if entry.tenant == tenant}
    return ViewReport(
        name=status.view,
        version=status.version,
        state=status.state,
        position=status.position,
        head=None,
        lag_seconds=None,
        partitions=tuple(
            PartitionReport(partition=position.partition, position=max(0, position.position), state=position.state)
            for position in positions
        ),
        parked=tuple(_parked(conversation, entry) for conversation, entry in sorted(parked.items())),
    )


def _parked(conversation_id: str, entry: Parked) -> ParkedConversation:
    parked_at = datetime.fromtimestamp(entry.at / 1_000_000, UTC)
    return ParkedConversation(
        conversation_id=conversation_id,
        version=entry.version,
        position=entry.position,
        type=entry.topic,
        error=entry.error,
        message=entry.message,
        at=parked_at.isoformat(timespec="microseconds"),
    )


async def _lag(log: LogAccess, position: int, head: int) -> float:
    """Seconds since the first event after `position` was recorded; 0 if there is none."""
    if position >= head:
        return 0.0
    recorded_at = await log.recorded_after(position)
    return 0.0 if recorded_at is None else max(0.0, (datetime.now(UTC) - recorded_at).total_seconds())
