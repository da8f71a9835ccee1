"""Reports the position of each view, and how far the view is behind the log."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct, field, structs

from infrastructure.event_log.incarnation import LogMoved
from projections.views.catalog import ALL_VIEWS
from projections.views.view_position import Parked, ViewPosition, status_of
from queries.consistency import Consistency
from queries.log_access import LogAccess, PostgresUnavailable
from queries.view_positions import positions_of

MAX_HEALTHY_LAG_SECONDS: Final = 10.0
"""A view that is further behind the log is not healthy."""


class PartitionReport(Struct, frozen=True, kw_only=True):
    """One partition of a view; `bucket` is its number."""

    partition: int = field(name="bucket")
    position: int
    state: str


class ParkedConversation(Struct, frozen=True, kw_only=True):
    """A conversation whose events a view no longer applies, and the event that could not be applied."""

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
        """Whether the view is live and keeps up with the log. False if the lag is not known."""
        return self.state == "live" and self.lag_seconds is not None and self.lag_seconds <= MAX_HEALTHY_LAG_SECONDS


class ViewReports:
    def __init__(self, log: LogAccess, consistency: Consistency) -> None:
        self._log = log
        self._consistency = consistency

    async def parked(self, tenant: str) -> list[str]:
        """Raises PyMongoError."""
        positions = (await self._consistency.positions.read()).values()
        return sorted({conversation for position in positions for conversation in position.parked_of(tenant)})

    async def read(self, shown: frozenset[str] = frozenset()) -> Sequence[ViewReport]:
        """`shown`: the parked conversations to list. Raises PyMongoError.

        While Postgres is unavailable, or if the log moves back meanwhile, `head` and `lag_seconds` are None.
        """
        positions = {view: positions_of(await self._consistency.positions.read(), view) for view in ALL_VIEWS}
        reports = {view: _report(of_view, shown) for view, of_view in positions.items()}
        try:
            end = await self._log.end()
            for view, report in reports.items():
                is_of_log = await self._consistency.checked.are_of(end.incarnation, positions[view])
                lag = await self._lag(report.position, end.position)
                state = report.state if is_of_log else "stale"
                reports[view] = structs.replace(report, head=end.position, lag_seconds=lag, state=state)
        except (PostgresUnavailable, LogMoved):
            reports = {view: _report(of_view, shown) for view, of_view in positions.items()}
        return list(reports.values())

    async def _lag(self, position: int, head: int) -> float:
        if position >= head:
            return 0.0
        recorded_at = await self._log.recorded_after(position)
        return 0.0 if recorded_at is None else max(0.0, (datetime.now(UTC) - recorded_at).total_seconds())


def _report(positions: Sequence[ViewPosition], shown: frozenset[str]) -> ViewReport:
    status = status_of(positions)
    parked: Mapping[str, Parked] = status.parked
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
        parked=tuple(_parked(conversation, parked[conversation]) for conversation in sorted(parked.keys() & shown)),
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
