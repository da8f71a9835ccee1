"""Updates the views of one store until it is stopped. Waits while a store is unavailable, and retries events that fail.

Positions at the same event are advanced together. A position that is behind advances at most to the next position
ahead. If a batch fails although the stores answer, each of its positions is advanced alone.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Sequence

import psycopg
import structlog
from msgspec import Struct
from pymongo.errors import ConnectionFailure
from redis.exceptions import RedisError

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.feed import BATCH_EVENTS, AppendNotifications, Batch, Feed
from infrastructure.event_log.migrate import DataIsNewer
from infrastructure.observability.metrics import Metrics
from projections.batch_pace import BatchPace
from projections.leases import HeldPartitions
from projections.parking import parked_for
from projections.position_advance import PositionMoved
from projections.position_loader import PositionLoader
from projections.retry_policy import RetryPolicy
from projections.update_reports import report_applied, report_loaded, report_parked
from projections.view_positions import ViewPositions
from projections.view_store import ViewStore
from projections.views.view_position import ViewPosition

POLL_SECONDS = 0.5
IDLE_SECONDS = 0.02
"""When no event came for this long, positions that are not in MongoDB yet are written."""

BEHIND_EVENTS = 400
"""The maximum batch of a view that is behind. The batch is small, because other views wait meanwhile."""

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.05, 2.0
_FIRST_MOVED_PAUSE_SECONDS, _MAX_MOVED_PAUSE_SECONDS = 0.01, 0.2
_UNAVAILABLE = (
    ConnectionFailure,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    RedisError,
    OSError,
)
"""A store is unavailable, or Redis refuses to write."""

log = structlog.get_logger(__name__)


class PositionGroup(Struct, frozen=True):
    """Positions that advance together, at most to `until`."""

    view_positions: Sequence[ViewPosition]
    until: int | None = None


class ViewUpdater:
    def __init__(
        self,
        store: ViewStore,
        views: Collection[str],
        *,
        positions: ViewPositions,
        feed: Feed,
        notifications: AppendNotifications,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._views = tuple(view for view in store.views if view in views)
        self._positions = positions
        self._feed = feed
        self._notifications = notifications
        self._metrics = metrics
        self._loader = PositionLoader(store, self._views, positions=positions, feed=feed, metrics=metrics)
        self._retries = RetryPolicy()
        self._pace = BatchPace()
        self._is_behind = False
        self._prepared = False
        self._must_load = True
        self._load_at = 0.0
        self._interrupted_by: str | None = "start"
        self.view_positions: dict[str, ViewPosition] = {}
        """The positions by `key`."""

    @property
    def is_ready(self) -> bool:
        return self._interrupted_by is None and not self._retries.is_stuck

    @property
    def newer_leases(self) -> dict[int, int]:
        return self._loader.newer_leases

    def hold(self, partitions: HeldPartitions) -> None:
        self._loader.hold(partitions)
        self._must_load = True

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`. Finishes a batch that it has begun. Raises DataIsNewer."""
        pause, moved_pause = _FIRST_PAUSE_SECONDS, _FIRST_MOVED_PAUSE_SECONDS
        while not stop.is_set():
            raise_if_cancelled()
            notified, started = self._notifications.count, time.monotonic()
            try:
                advanced = await self._advance_all()
            except PositionMoved as error:
                # For example, another projector advances these views now, or one of these views started over.
                log.debug("projection_position_moved", reason=str(error))
                self._must_load = True
                await _pause(stop, moved_pause)
                moved_pause = min(_MAX_MOVED_PAUSE_SECONDS, moved_pause * 2)
            except DataIsNewer:
                raise
            except Exception as error:  # noqa: BLE001  # a projector must not end: it logs the error and retries
                self._report_interrupted(error)
                await _pause(stop, pause)
                pause = min(_MAX_PAUSE_SECONDS, pause * 2)
            else:
                self._report_resumed()
                pause, moved_pause = _FIRST_PAUSE_SECONDS, _FIRST_MOVED_PAUSE_SECONDS
                between = self._pace.seconds_between(self._feed.head, self._store.min_batch_seconds)
                remaining = between - (time.monotonic() - started)
                if advanced and remaining > 0 and not self._is_behind:
                    await _pause(stop, remaining)
                elif not advanced and not await self._notifications.wait(notified, IDLE_SECONDS):
                    await self._idle(notified)
        await self._flush()

    async def _idle(self, notified: int) -> None:
        await self._flush()
        if not await self._notifications.wait(notified, POLL_SECONDS):
            self._must_load = True  # a view may have started over while nothing was appended

    async def _flush(self) -> None:
        try:
            await self._store.flush()
        except (PositionMoved, *_UNAVAILABLE):
            self._must_load = True

    async def _advance_all(self) -> bool:
        """Returns whether more events may be waiting."""
        if not self._prepared:
            await self._store.prepare()
            self._prepared = True
        if self._must_load or time.monotonic() >= self._load_at:
            await self._load()
        advanced = self._is_behind = False
        for group in self._groups():
            advanced |= await self._advance(group)
        return advanced

    async def _load(self) -> None:
        await self._flush()
        self._must_load = False
        before, self.view_positions = self.view_positions, await self._loader.load()
        self._load_at = time.monotonic() + POLL_SECONDS  # loading finds new second builds
        self._retries.keep_only(self.view_positions)
        report_loaded(before, self.view_positions)

    def _groups(self) -> list[PositionGroup]:
        """The group that is furthest behind comes first. At the end, each position that failed has a group of its own.

        A failed position has no group while it waits.
        """
        by_position: defaultdict[int, list[ViewPosition]] = defaultdict(list)
        alone: list[ViewPosition] = []
        for key, view_position in self.view_positions.items():
            if key not in self._retries:
                by_position[view_position.position].append(view_position)
            elif not self._retries.must_wait(key):
                alone.append(view_position)
        ordered = sorted(by_position)
        limits = [*ordered[1:], None]
        together = [PositionGroup(by_position[at], until) for at, until in zip(ordered, limits, strict=False)]
        return together + [PositionGroup([view_position]) for view_position in alone]

    async def _advance(self, group: PositionGroup) -> bool:
        """Returns whether more events may be waiting."""
        view_positions, start = group.view_positions, group.view_positions[0].position
        limit = BATCH_EVENTS if group.until is None else BEHIND_EVENTS
        limit = min([limit, *(self._retries.limit(view_position.key) for view_position in view_positions)])
        batch = Batch(start, [])
        try:
            batch = await self._feed.after(start, until=group.until, limit=limit)
            if not batch.events:
                return False
            if not all(view_position.is_of(batch.incarnation) for view_position in view_positions):
                raise PositionMoved(self._views, start)  # the log may have moved back
            moved = await self._store.apply(view_positions, batch)
        except (PositionMoved, *_UNAVAILABLE):
            raise
        except Exception as error:  # noqa: BLE001  # the failing event must neither stop the other views nor be skipped
            if len(view_positions) > 1:
                groups = [PositionGroup([view_position], group.until) for view_position in view_positions]
                return bool(sum([await self._advance(of_one) for of_one in groups]))
            return await self._handle_failure(view_positions[0], batch, error)
        self._is_behind |= group.until is not None or len(batch.events) == limit
        before = dict(self.view_positions)
        self.view_positions |= {view_position.key: view_position for view_position in moved}
        report_applied(self._metrics, before, self.view_positions, moved, batch)
        for view_position in moved:
            self._retries.record_success(view_position.key, batch)
        return True

    async def _handle_failure(self, view_position: ViewPosition, batch: Batch, error: Exception) -> bool:
        """Returns whether to continue without a pause."""
        verdict = self._retries.record_failure(view_position, batch, error)
        if verdict != "park":
            return verdict == "retry_smaller"
        failing = batch.events[0]
        parked = parked_for(failing, error)
        await self._store.flush()
        after = await self._positions.park(view_position, failing.conversation_id, parked)
        self.view_positions[view_position.key] = after
        self._retries.record_parked(view_position.key)
        report_parked(view_position.view, failing, parked)
        return True

    def _report_interrupted(self, error: Exception) -> None:
        self._must_load = True
        cause = type(error).__name__
        for view in self._views:
            self._metrics.projection_interruptions.labels(view, cause).inc()
        if self._interrupted_by != cause:
            write = log.warning if isinstance(error, _UNAVAILABLE) else log.error
            write("projection_interrupted", projections=list(self._views), exc_info=error)
            self._interrupted_by = cause

    def _report_resumed(self) -> None:
        if self._interrupted_by is not None:
            log.info("projection_resumed", projections=list(self._views))
            self._interrupted_by = None


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
