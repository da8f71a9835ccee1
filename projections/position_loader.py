"""Loads the view positions in the partitions whose lease this process holds.

The log may have moved back, after a restore. Views that show lost events are started over.
"""

from collections.abc import Collection, Sequence

import structlog
from pymongo.errors import OperationFailure

from infrastructure.event_log.feed import Feed
from infrastructure.observability.metrics import Metrics
from projections.leases import HeldPartitions
from projections.view_positions import ViewPositions
from projections.view_store import ViewStore
from projections.views.view_position import ViewPosition, missing_positions

log = structlog.get_logger(__name__)


class PositionLoader:
    """Starts a view over if positions of the view are missing, or if the view shows another log."""

    def __init__(
        self, store: ViewStore, views: Collection[str], *, positions: ViewPositions, feed: Feed, metrics: Metrics
    ) -> None:
        self._store = store
        self._views = tuple(views)
        self._positions = positions
        self._feed = feed
        self._metrics = metrics
        self._held_partitions = HeldPartitions({})
        self.newer_leases: dict[int, int] = {}
        """By partition: leases in MongoDB that are newer than the leases of this process."""

    def hold(self, partitions: HeldPartitions) -> None:
        self._held_partitions = HeldPartitions(
            partitions.leases, partitions.dead_holders | self._held_partitions.dead_holders
        )

    async def load(self) -> dict[str, ViewPosition]:
        """The positions by `key`. Raises PositionMoved, DataIsNewer, psycopg.Error, PyMongoError and RedisError."""
        held_partitions = self._held_partitions
        if held_partitions.dead_holders:
            await self._end_sessions_of_dead(held_partitions)
        loaded = await self._load_and_start()
        if await self._check(loaded):
            loaded = await self._positions.load_to_advance(self._views)
        leases = held_partitions.leases
        if any(position.lease < leases.get(position.partition, 0) for position in loaded):
            await self._positions.register_leases(self._views, leases)
            loaded = await self._positions.load_to_advance(self._views)
        self.newer_leases = {
            position.partition: max(position.lease, self.newer_leases.get(position.partition, 0))
            for position in loaded
            if position.lease > leases.get(position.partition, position.lease)
        }
        return {position.key: position for position in loaded if position.lease == leases.get(position.partition)}

    async def _load_and_start(self) -> Sequence[ViewPosition]:
        """Starts over the views that lack positions.

        A second build that lacks positions is left as it is, because the next rebuild makes a new build.
        """
        loaded = await self._positions.load_to_advance(self._views)
        lost = [(view, partition) for view, partition in missing_positions(loaded) if view in self._views]
        incomplete = {view for view, _ in lost} | (set(self._views) - {position.view for position in loaded})
        if not incomplete:
            return loaded
        for view, partition in lost:
            log.error("projection_position_missing", projection=view, partition=partition)
        end = await self._feed.end()
        for view in incomplete:
            await self._store.start_over(view, end.position, only_incomplete=True)
        return await self._positions.load_to_advance(self._views)

    async def _end_sessions_of_dead(self, partitions: HeldPartitions) -> None:
        try:
            await self._store.end_sessions(sorted(partitions.dead_holders))
        except OperationFailure as error:
            # MongoDB also aborts the transactions of dead projectors by itself, but later.
            log.warning("sessions_not_ended", error_type=type(error).__name__)
        self._held_partitions = HeldPartitions(
            self._held_partitions.leases, self._held_partitions.dead_holders - partitions.dead_holders
        )

    async def _check(self, view_positions: Sequence[ViewPosition]) -> bool:
        """Checks positions that are from another incarnation of the log, or whose target is after the log's end.

        Returns whether it checked any position. A view starts over if the event at its position is lost.
        """
        end = await self._feed.end()
        unchecked = [
            position
            for position in view_positions
            if not position.is_of(end.incarnation) or position.target > end.position
        ]
        if not unchecked:
            return False
        check = await self._feed.check(position.position for position in unchecked)
        lost: dict[str, ViewPosition] = {}
        for position in unchecked:
            if check.has(position.log_position):
                await self._positions.confirm(position, check, end.position)
            else:
                lost[position.view] = position
        for position in lost.values():
            await self._start_over(position, end.position)
        return True

    async def _start_over(self, position: ViewPosition, last: int) -> None:
        """Starts the view over. If it is a second build, removes its positions instead."""
        log.error("projection_started_over", projection=position.view, position=position.position, log_ends_at=last)
        self._metrics.projection_restarts.labels(position.base_view).inc()
        if position.view == position.base_view:
            await self._store.start_over(position.view, last, only_from=position)
        else:
            await self._positions.remove(position)
