"""Brings the views of one store forward, and never stops: outages are waited out, an event that fails is tried again.

Its views have a place in each bucket that this process holds (`leases.py`). Places at the same position are written together. One that
lags (a rebuild, a bucket taken over) takes turns with the others, and goes no further than the next position ahead, so that it
meets them there. Where a batch fails for another reason than a store that is away, its places go on one by one, and the one
that fails as `trouble.py` says: up to an event that can not be applied, whose conversation is then parked in that view
(`parking.py`). Nothing is ever skipped.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import psycopg
import redis.exceptions
import structlog
from pymongo.errors import ConnectionFailure, OperationFailure

from infrastructure.event_log.recorded import Logged
from infrastructure.observability.metrics import Metrics
from projections.append_notifications import AppendNotifications
from projections.feed import BATCH_EVENTS, Batch, Feed
from projections.leases import Held
from projections.parking import parked_for
from projections.retry_policy import RetryPolicy
from projections.view_positions import PositionMoved, ViewPositions
from projections.view_store import ViewStore
from projections.views.partitions import partition_of
from projections.views.view_position import ViewPosition

POLL_SECONDS = 0.5
IDLE_SECONDS = 0.02
"""When nothing came for so long, positions that are not written down yet are."""

BEHIND_EVENTS = 400
"""What a view that lags may take in one turn, so that those that keep up wait no longer for theirs."""

_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.05, 2.0
_FIRST_FENCE, _MAX_FENCE = 0.01, 0.2
_AWAY = (
    ConnectionFailure,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
)

log = structlog.get_logger(__name__)


class ViewUpdater:
    """One store's views in one process. `moved` rings when one has moved."""

    def __init__(
        self,
        sink: ViewStore,
        views: Collection[str],
        *,
        positions: ViewPositions,
        feed: Feed,
        bell: AppendNotifications,
        metrics: Metrics,
    ) -> None:
        self._sink = sink
        self._views = tuple(view for view in sink.views if view in views)
        self._positions = positions
        self._feed = feed
        self._bell = bell
        self._metrics = metrics
        self._prepared = False
        self._known = False
        self._held = Held({})
        self._look_again = 0.0
        self._away: str | None = "start"
        self._troubles = RetryPolicy()
        self.places: dict[str, ViewPosition] = {}
        """By their `ident`."""
        self.outdone: dict[int, int] = {}
        """Buckets that are held here under a lease that MongoDB knows a newer one of: that one."""

    @property
    def ready(self) -> bool:
        """Whether its stores answer and every view can move."""
        return self._away is None and not self._troubles.stuck

    def hold(self, held: Held) -> None:
        """These buckets are this process's own now."""
        self._held = Held(held.leases, held.silent | self._held.silent)
        self._known = False

    async def run(self, stop: asyncio.Event) -> None:
        """Moves the views forward until `stop`; a batch that was begun is finished first."""
        pause, fenced = _FIRST_PAUSE, _FIRST_FENCE
        while not stop.is_set():
            rings, began = self._bell.count, time.monotonic()
            try:
                moved = await self._turn()
            except PositionMoved as error:
                # Another projector writes these views now, or someone reset them: see where they are.
                log.debug("projection_fenced", reason=str(error))
                self._known = False
                await _pause(stop, fenced)
                fenced = min(_MAX_FENCE, fenced * 2)
            except Exception as error:  # noqa: BLE001  # a projector that ends helps nobody: it says so, and tries again
                self._lost(error)
                await _pause(stop, pause)
                pause = min(_MAX_PAUSE_SECONDS, pause * 2)
            else:
                self._regained()
                pause, fenced = _FIRST_PAUSE, _FIRST_FENCE
                early = self._sink.pace_seconds - (time.monotonic() - began)
                if moved and early > 0:
                    await _pause(stop, early)
                elif not moved and not await self._bell.wait(rings, IDLE_SECONDS):
                    await self._idle(rings)
        await self._settle()

    async def _idle(self, rings: int) -> None:
        await self._settle()
        if not await self._bell.wait(rings, POLL_SECONDS):
            self._known = False  # so that a reset is noticed when nothing is appended

    async def _settle(self) -> None:
        try:
            await self._sink.settle()
        except (PositionMoved, *_AWAY):
            self._known = False

    async def _turn(self) -> bool:
        """One step for each group of places; says whether there may be more to do at once."""
        if not self._prepared:
            await self._sink.prepare()
            self._prepared = True
        if not self._known or time.monotonic() >= self._look_again:
            await self._load()
        moved = False
        for places, until in self._groups():
            moved |= await self._step(places, until)
        return moved

    async def _load(self) -> None:
        await self._settle()
        held = self._held
        if held.silent:
            await self._end_silent(held)
        found = await self._positions.load_to_move(self._views)
        if missing := set(self._views) - {place.view for place in found}:
            head = await self._feed.last_position()
            for view in missing:
                await self._sink.begin_anew(view, head, only_first=True)
            found = await self._positions.load_to_move(self._views)
        if await self._begun_anew(found):
            found = await self._positions.load_to_move(self._views)
        if any(place.lease < held.leases.get(place.partition, 0) for place in found):
            await self._positions.enter(self._views, held.leases)
            found = await self._positions.load_to_move(self._views)
        self.outdone = {
            place.partition: max(place.lease, self.outdone.get(place.partition, 0))
            for place in found
            if place.lease > held.leases.get(place.partition, place.lease)
        }
        self._take({place.key: place for place in found if place.lease == held.leases.get(place.partition)})
        self._known = held.leases == self._held.leases
        self._look_again = time.monotonic() + POLL_SECONDS  # for an other generation that is to be brought forward

    async def _end_silent(self, held: Held) -> None:
        try:
            await self._sink.end_others(sorted(held.silent))
        except OperationFailure as error:
            # MongoDB ends what they left open by itself, only later.
            log.warning("sessions_not_ended", error_type=type(error).__name__)
        self._held = Held(self._held.leases, self._held.silent - held.silent)

    def _take(self, places: Mapping[str, ViewPosition]) -> None:
        """From now on these are the places to move."""
        before = self.places
        self.places = dict(places)
        self._troubles.keep(places)
        for name, place in places.items():
            if name in before:
                _say_unparked(before[name], place)
        for view in sorted({place.view for place in places.values()}):
            state, was = _state(self.places.values(), view), _state(before.values(), view)
            if state != was:
                log.info("projection_state", projection=view, state=state, position=self._position(view))

    async def _begun_anew(self, places: Sequence[ViewPosition]) -> bool:
        """Begins anew with views that show more than the log has, as after Postgres was restored from an older backup."""
        furthest = max(place.position for place in places)
        # A position is written after its events can be read. So the log ends behind it, or has lost it; asked twice to be sure.
        if furthest <= await self._feed.last_position() or furthest <= (last := await self._feed.last_position()):
            return False
        ahead = {place.view: place for place in places if place.position > last}
        for view, place in ahead.items():
            log.error("projection_ahead_of_log", projection=view, position=place.position, log_ends_at=last)
            if view == place.base_view:
                await self._sink.begin_anew(view, last, only_ahead_of=last)
            else:
                await self._positions.forget(view)
        return True

    def _groups(self) -> list[tuple[list[ViewPosition], int | None]]:
        """The places to write together, those behind first, and how far each group may go."""
        alone = [place for name, place in self.places.items() if name in self._troubles]
        together: defaultdict[int, list[ViewPosition]] = defaultdict(list)
        for name, place in self.places.items():
            if name not in self._troubles:
                together[place.position].append(place)
        stops = sorted(together)
        groups: list[tuple[list[ViewPosition], int | None]] = [
            (together[position], until) for position, until in zip(stops, [*stops[1:], None], strict=False)
        ]
        return groups + [([place], None) for place in alone if not self._troubles.waits(place.key)]

    async def _step(self, places: Sequence[ViewPosition], until: int | None) -> bool:
        """One batch for places that stand together; says whether there may be more to do at once."""
        place = places[0]
        limit = BATCH_EVENTS if until is None else BEHIND_EVENTS
        limit = min([limit, *(self._troubles.limit(each.key) for each in places)])
        batch = Batch(place.position, [])
        try:
            batch = await self._feed.after(place.position, until=until, limit=limit)
            if not batch.events:
                return False
            moved = await self._sink.apply(places, batch.end, batch.events)
        except (PositionMoved, *_AWAY):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it must neither stop the other places nor be skipped
            if len(places) > 1:
                return bool(sum([await self._step([each], until) for each in places]))
            return await self._failed(place, batch, error)
        self._applied(moved, batch)
        return True

    async def _failed(self, place: ViewPosition, batch: Batch, error: Exception) -> bool:
        """A batch of one view failed; says whether there is something to do at once."""
        verdict = self._troubles.failed(place, batch, error)
        if verdict != "park":
            return verdict == "narrowed"
        failed = batch.events[0]
        parked = parked_for(failed, error)
        await self._sink.settle()
        self.places[place.key] = await self._positions.park(place, failed.conversation_id, parked)
        self._troubles.parked(place.key)
        log.error(
            "projection_parked",
            projection=place.view,
            conversation_id=failed.conversation_id,
            position=failed.position,
            version=failed.version,
            event_type=failed.topic,
            request_id=failed.correlation_id,
            error_type=parked.error,
        )
        return True

    def _applied(self, moved: Sequence[ViewPosition], batch: Batch) -> None:
        shown: defaultdict[str, list[Logged]] = defaultdict(list)
        by_partition: defaultdict[int, list[Logged]] = defaultdict(list)
        for logged in batch.events:
            by_partition[partition_of(logged.conversation_id)].append(logged)
        for place in moved:
            name = place.key
            before, self.places[name] = self.places[name], place
            if before.state == "live":
                its = by_partition.get(place.partition, ())
                shown[place.view] += [logged for logged in its if logged.conversation_id not in place.parked]
            elif place.state == "live" and _state(self.places.values(), place.view) == "live":
                log.info("projection_state", projection=place.view, state="live", position=place.position)
            _say_unparked(before, place)
            self._troubles.written(name, batch)
        self._measure({place.view for place in moved}, shown)

    def _measure(self, moved: Collection[str], shown: Mapping[str, Sequence[Logged]]) -> None:
        now = time.time()
        for view in moved:
            self._metrics.projection_position.labels(view).set(self._position(view))
            observe = self._metrics.projection_lag_seconds.labels(view).observe
            for logged in shown.get(view, ()):
                observe(max(0.0, now - logged.recorded_at.timestamp()))
        if log.is_enabled_for(_DEBUG):
            for view, its in shown.items():
                for logged in its:
                    log.debug(
                        "event_projected",
                        request_id=logged.correlation_id,
                        conversation_id=logged.conversation_id,
                        version=logged.version,
                        position=logged.position,
                        event_type=logged.topic,
                        projection=view,
                    )

    def _position(self, view: str) -> int:
        """How far the view is in the buckets of this process."""
        return min(place.position for place in self.places.values() if place.view == view)

    def _lost(self, error: Exception) -> None:
        self._known = False
        away = type(error).__name__
        if self._away != away:
            say = log.warning if isinstance(error, _AWAY) else log.error
            say("projection_waits", projections=list(self._views), exc_info=error)
            self._away = away

    def _regained(self) -> None:
        if self._away is not None:
            log.info("projection_runs", projections=list(self._views))
            self._away = None


_DEBUG = 10


def _state(places: Iterable[ViewPosition], view: str) -> str | None:
    """The state of a view, of what there is of it here."""
    states = {place.state for place in places if place.view == view}
    return None if not states else "live" if states == {"live"} else "rebuilding"


def _say_unparked(before: ViewPosition, now: ViewPosition) -> None:
    if now.parked is before.parked:
        return
    for conversation_id in before.parked.keys() - now.parked.keys():
        log.info("projection_unparked", projection=now.view, conversation_id=conversation_id, position=now.position)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Waits, unless it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
