"""Checks which view positions belong to the current log.

A restart or fail-over of Postgres changes the log's incarnation. Then positions are compared with the log. Equal
incarnations need no look-up.
"""

from collections.abc import Iterable
from typing import Final

from infrastructure.event_log.incarnation import LogMoved, LogPosition
from projections.views.view_position import ViewPosition
from queries.log_access import LogAccess, PostgresUnavailable

MAX_REMEMBERED: Final = 10_000


class CheckedPositions:
    """Remembers the results for the log's newest incarnation."""

    def __init__(self, log: LogAccess) -> None:
        self._log = log
        self._incarnation = ""
        self._results: dict[LogPosition, bool] = {}

    async def are_of(self, incarnation: str, view_positions: Iterable[ViewPosition]) -> bool:
        """Whether the log has all events that these views show. False if Postgres is needed and unavailable.

        Raises LogMoved if the log has another incarnation now.
        """
        unchecked = {position.log_position for position in view_positions if not position.is_of(incarnation)}
        if not unchecked:
            return True
        if self._incarnation != incarnation or len(self._results) > MAX_REMEMBERED:
            self._incarnation, self._results = incarnation, {}
        results = self._results
        if not results.keys() >= unchecked:
            try:
                check = await self._log.check(log_position.position for log_position in unchecked)
            except PostgresUnavailable:
                return False
            if check.incarnation != incarnation:
                raise LogMoved("the log may have moved back since the read began")
            results |= {log_position: check.has(log_position) for log_position in unchecked}
        return all(results[log_position] for log_position in unchecked)
