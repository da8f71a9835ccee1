"""GET /v1/projections: how far each view has come, and how far it is behind. For people and dashboards; `health.py` uses it too.

`{object:"list", data:[{name, version, state, position, head, lag_seconds, partitions:[], parked:[]}]}`. `head` is the log's
last position, `lag_seconds` the age of the oldest event that a view does not show yet (0 when it shows all). `state` is
`current`, `behind` (for longer than USUAL_SECONDS) or, with Postgres away, `unknown`: `head` and `lag_seconds` are null then.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fastapi import APIRouter, Response
from msgspec import Struct, structs

from infrastructure.http.shapes import json_response
from projections.read_models import VIEWS
from queries.caller import Called, Sources, reads
from queries.log_access import LogAccess, LogAway

router = APIRouter(tags=["projections"])

USUAL_SECONDS: Final = 10.0
"""A view that is no further behind than this is on its way; any further, and something keeps it."""


class Standing(Struct, frozen=True, kw_only=True):
    """Where one view stands."""

    name: str
    version: int
    state: Literal["current", "behind", "unknown"]
    position: int
    head: int | None
    lag_seconds: float | None
    partitions: tuple[Any, ...] = ()
    parked: tuple[Any, ...] = ()


@reads(router, "/v1/projections")
async def list_projections(called: Called) -> Response:
    """Where each view stands."""
    found = await standings(called.sources)
    headers = {"x-consistency": "unverified"} if any(each.state == "unknown" for each in found) else {}
    return json_response({"object": "list", "data": [structs.asdict(each) for each in found]}, headers=headers)


async def standings(sources: Sources) -> Sequence[Standing]:
    """All views, as they stand now. Raises PyMongoError."""
    positions = await sources.consistency.positions.read()
    try:
        head = await sources.log.ask(lambda reader: reader.last_position())
        lags = {position: await _lag(sources.log, position, head) for position in {*positions.values(), 0}}
    except LogAway:
        return [
            Standing(
                name=view, version=1, state="unknown", position=positions.get(view, 0), head=None, lag_seconds=None
            )
            for view in VIEWS
        ]
    return [_standing(view, positions.get(view, 0), head, lags[positions.get(view, 0)]) for view in VIEWS]


def _standing(view: str, position: int, head: int, lag: float) -> Standing:
    state: Literal["current", "behind"] = "current" if lag <= USUAL_SECONDS else "behind"
    return Standing(name=view, version=1, state=state, position=position, head=head, lag_seconds=lag)


async def _lag(log: LogAccess, position: int, head: int) -> float:
    """Seconds since the first event behind `position` was recorded; 0 when there is none."""
    if position >= head:
        return 0.0
    missing = await log.ask(lambda reader: reader.after(position, limit=1))
    return max(0.0, (datetime.now(UTC) - missing[0].recorded_at).total_seconds()) if missing else 0.0
