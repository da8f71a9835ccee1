"""GET /v1/projections: how far each view has come, and how far it is behind. For people and dashboards; `health.py` uses it too.

`{object:"list", data:[{name, version, state, position, head, lag_seconds, partitions:[{bucket, position, state}], parked:[{conversation_id,
version, position, type, error, message, at}]}]}`. `parked` are the caller's conversations that the view leaves out, since the event it
names could not be applied: `scripts.rebuild --conversation` brings one back. `state` is the projector's own word (`live`,
`rebuilding`; `absent` before it has begun), `position` the last event the view shows in the bucket that is furthest behind, `head` the log's
last position, `lag_seconds` the age of the oldest event that the view does not show yet (0 when it shows all). With Postgres away,
`head` and `lag_seconds` are null, and the answer says `X-Consistency: unverified`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter
from msgspec import Struct, structs
from starlette.responses import Response

from infrastructure.http.shapes import json_response
from projections.views.catalog import ALL_VIEWS
from projections.views.view_position import Parked, ViewPosition, status_of
from queries.log_access import LogAccess, LogAway
from queries.query_context import QueryContext, Sources
from queries.query_route import query_route
from queries.view_positions import positions_of

router = APIRouter(tags=["projections"])

USUAL_SECONDS: Final = 10.0
"""A view that is no further behind than this is on its way; any further, and something keeps it."""


class ViewReport(Struct, frozen=True, kw_only=True):
    """One view in the answer of GET /v1/projections."""

    name: str
    version: int = 1
    state: str
    position: int
    head: int | None = None
    lag_seconds: float | None = None
    partitions: tuple[Any, ...] = ()
    parked: tuple[Any, ...] = ()

    @property
    def is_usual(self) -> bool:
        """Whether the view is live, and no further behind than one is that keeps up."""
        return self.state == "live" and self.lag_seconds is not None and self.lag_seconds <= USUAL_SECONDS


@query_route(router, "/v1/projections")
async def list_projections(context: QueryContext) -> Response:
    """Where each view stands."""
    found = await standings(context.sources, context.principal.tenant)
    unverified = any(each.head is None for each in found)
    body = {"object": "list", "data": [structs.asdict(each) for each in found]}
    return json_response(body, headers={"x-consistency": "unverified"} if unverified else {})


async def standings(sources: Sources, tenant: str | None = None) -> Sequence[ViewReport]:
    """All views, as they stand now, with what they have parked of this tenant's. Raises PyMongoError."""
    seen = await sources.consistency.positions.read()
    found = [_report(positions_of(seen, view), tenant) for view in ALL_VIEWS]
    try:
        head = await sources.log.ask(lambda reader: reader.last_position())
        lags = {position: await _lag(sources.log, position, head) for position in {each.position for each in found}}
    except LogAway:
        return found
    return [structs.replace(each, head=head, lag_seconds=lags[each.position]) for each in found]


def _report(positions: Sequence[ViewPosition], tenant: str | None) -> ViewReport:
    status = status_of(positions)
    parked = {name: entry for name, entry in status.parked.items() if entry.tenant == tenant}
    return ViewReport(
        name=status.view,
        version=status.version,
        state=status.state,
        position=status.position,
        partitions=tuple(
            {"bucket": position.partition, "position": max(0, position.position), "state": position.state}
            for position in positions
        ),
        parked=tuple(_parked(name, entry) for name, entry in sorted(parked.items())),
    )


def _parked(conversation_id: str, entry: Parked) -> dict[str, Any]:
    since = datetime.fromtimestamp(entry.at / 1_000_000, UTC)
    return {
        "conversation_id": conversation_id,
        "version": entry.version,
        "position": entry.position,
        "type": entry.topic,
        "error": entry.error,
        "message": entry.message,
        "at": since.isoformat(timespec="microseconds"),
    }


async def _lag(log: LogAccess, position: int, head: int) -> float:
    """Seconds since the first event behind `position` was recorded; 0 when there is none."""
    if position >= head:
        return 0.0
    missing = await log.ask(lambda reader: reader.batch_logged(position, limit=1, max_bytes=1))
    return max(0.0, (datetime.now(UTC) - missing[0].recorded_at).total_seconds()) if missing else 0.0
