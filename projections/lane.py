"""Brings the views of one store forward, and never stops: outages are waited out, an event that fails is tried again.

Views that stand at the same position are written together. One that lags (a rebuild) takes turns with the others, and goes
no further than the next position ahead, so that it meets them there. Where a batch fails for another reason than a
store that is away, its views go on one by one, and the one that fails as `trouble.py` says: up to an event that can not be
applied, whose conversation is then parked in that view (`parking.py`). Nothing is ever skipped.
"""

import asyncio
import time
from collections.abc import Collection, Sequence

import psycopg
import redis.exceptions
import structlog
from pymongo.errors import ConnectionFailure

from infrastructure.metrics import Metrics
from projections.bell import Bell, Signal
from projections.feed import BATCH_EVENTS, Batch, Feed
from projections.parking import due, parked_for
from projections.positions import Fenced, Place, Positions
from projections.sink import Sink
from projections.trouble import Troubles

POLL_SECONDS = 0.5
BEHIND_EVENTS = 400
"""What a view that lags may take in one turn, so that those that keep up wait no longer for theirs."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FIRST_FENCE, _LONGEST_FENCE = 0.01, 0.2
_AWAY = (
    ConnectionFailure,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
)

log = structlog.get_logger(__name__)


class Lane:
    """One store's views in one process. `moved` rings when one has moved."""

    def __init__(
        self, sink: Sink, views: Collection[str], *, positions: Positions, feed: Feed, bell: Bell, metrics: Metrics
    ) -> None:
        self._sink = sink
        self._views = tuple(view for view in sink.views if view in views)
        self._positions = positions
        self._feed = feed
        self._bell = bell
        self._metrics = metrics
        self._prepared = False
        self._known = False
        self._look_again = 0.0
        self._away: str | None = "start"
        self._troubles = Troubles()
        self.places: dict[str, Place] = {}
        self.moved = Signal()

    @property
    def ready(self) -> bool:
        """Whether its stores answer and every view can move."""
        return self._away is None and not self._troubles.stuck

    async def arrival(self, target: int) -> None:
        """Returns when every view is live and shows `target`."""
        while True:
            seen = self.moved.count
            if self.places and all(it.state == "live" and it.position >= target for it in self.places.values()):
                return
            await self.moved.wait(seen, POLL_SECONDS)

    async def run(self, stop: asyncio.Event) -> None:
        """Moves the views forward until `stop`; a batch that was begun is finished first."""
        pause, fenced = _FIRST_PAUSE, _FIRST_FENCE
        while not stop.is_set():
            rings = self._bell.count
            try:
                moved = await self._turn()
            except Fenced as error:
                # Another projector writes these views now, or someone reset them: see where they are.
                log.debug("projection_fenced", reason=str(error))
                self._known = False
                await _pause(stop, fenced)
                fenced = min(_LONGEST_FENCE, fenced * 2)
            except Exception as error:  # noqa: BLE001  # a projector that ends helps nobody: it says so, and tries again
                self._lost(error)
                await _pause(stop, pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
            else:
                self._regained()
                pause, fenced = _FIRST_PAUSE, _FIRST_FENCE
                if not moved and not await self._bell.wait(rings, POLL_SECONDS):
                    self._known = False  # so that a reset is noticed when nothing is appended

    async def _turn(self) -> bool:
        """One step for each group of views; says whether there may be more to do at once."""
        if not self._prepared:
            await self._sink.prepare()
            self._prepared = True
        if not self._known or time.monotonic() >= self._look_again:
            await self._load()
        moved = False
        for views, until in self._groups():
            moved |= await self._step(views, until)
        return moved

    async def _load(self) -> None:
        places = await self._positions.load_to_move(self._views)
        if missing := [view for view in self._views if view not in places]:
            head = await self._feed.last_position()
            for view in missing:
                await self._positions.begin(view, head)
            places = await self._positions.load_to_move(self._views)
        if await self._reset_ahead(places):
            places = await self._positions.load_to_move(self._views)
        for view, place in places.items():
            before = self.places.get(view)
            if before is None or before.state != place.state:
                log.info("projection_state", projection=view, state=place.state, position=place.position)
            if before is not None:
                _say_unparked(before, place)
        self.places = places
        self._known = True
        self._look_again = time.monotonic() + POLL_SECONDS  # for an other generation that is to be brought forward

    async def _reset_ahead(self, places: dict[str, Place]) -> bool:
        """Begins anew with views that show more than the log has, as after Postgres was restored from an older backup."""
        furthest = max(place.position for place in places.values())
        # A position is written after its events can be read. So the log ends behind it, or has lost it; asked twice to be sure.
        if furthest <= await self._feed.last_position() or furthest <= (last := await self._feed.last_position()):
            return False
        for place in places.values():
            if place.position > last:
                log.error("projection_ahead_of_log", projection=place.view, position=place.position, log_ends_at=last)
                if place.view == place.shows:
                    await self._positions.reset(place.view, last)
                else:
                    await self._positions.forget(place.view)
        return True

    def _groups(self) -> list[tuple[list[str], int | None]]:
        """The views to write together, those behind first, and how far each group may go."""
        alone = [view for view in self.places if view in self._troubles or self.places[view].state == "emptying"]
        together: dict[tuple[int, frozenset[str]], list[str]] = {}
        for view, place in self.places.items():
            if view not in alone:
                together.setdefault((place.position, frozenset(place.parked)), []).append(view)
        stops = sorted({position for position, _ in together})
        ahead = dict(zip(stops, [*stops[1:], None], strict=False))
        groups = [
            (views, ahead[position]) for (position, _), views in sorted(together.items(), key=lambda it: it[0][0])
        ]
        return groups + [([view], None) for view in alone if not self._troubles.waits(view)]

    async def _step(self, views: Sequence[str], until: int | None) -> bool:
        """One batch for views that stand together; says whether there may be more to do at once."""
        place = self.places[views[0]]
        if place.state == "emptying":
            self._known = False
            return await self._sink.empty_some(place) or True
        limit = BATCH_EVENTS if until is None else BEHIND_EVENTS
        limit = min([limit, *(self._troubles.limit(view) for view in views)])
        batch = Batch(place.position, [])
        try:
            batch = await self._feed.after(place.position, until=until, limit=limit)
            if not batch.events:
                return False
            moved = await self._sink.apply([self.places[view] for view in views], batch.end, batch.events)
        except (Fenced, *_AWAY):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it must neither stop the other views nor be skipped
            if len(views) > 1:
                return bool(sum([await self._step([view], until) for view in views]))
            return await self._failed(place, batch, error)
        self._applied(moved, batch)
        return True

    async def _failed(self, place: Place, batch: Batch, error: Exception) -> bool:
        """A batch of one view failed; says whether there is something to do at once."""
        verdict = self._troubles.failed(place, batch, error)
        if verdict != "park":
            return verdict == "narrowed"
        failed = batch.events[0]
        parked = parked_for(failed, error)
        self.places[place.view] = await self._positions.park(place, failed.conversation_id, parked)
        self._troubles.parked(place.view)
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

    def _applied(self, moved: Sequence[Place], batch: Batch) -> None:
        now = time.time()
        parked = self.places[moved[0].view].parked
        events = due(batch.events, parked)
        for place in moved:
            view, before = place.view, self.places[place.view]
            self.places[view] = place
            self._metrics.projection_position.labels(view).set(place.position)
            if before.state == "live":
                observe = self._metrics.projection_lag_seconds.labels(view).observe
                for logged in events:
                    observe(max(0.0, now - logged.recorded_at.timestamp()))
            elif place.state == "live":
                log.info("projection_state", projection=view, state=place.state, position=place.position)
            _say_unparked(before, place)
            self._troubles.written(view, batch)
            log.debug("projection_moved", projection=view, position=place.position, events=len(batch.events))
        if log.is_enabled_for(_DEBUG):
            for logged in events:
                log.debug(
                    "event_projected",
                    request_id=logged.correlation_id,
                    conversation_id=logged.conversation_id,
                    version=logged.version,
                    position=logged.position,
                    event_type=logged.topic,
                    projections=[place.view for place in moved],
                )
        self.moved.ring()

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


def _say_unparked(before: Place, now: Place) -> None:
    for conversation_id in before.parked.keys() - now.parked.keys():
        log.info("projection_unparked", projection=now.view, conversation_id=conversation_id, position=now.position)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Waits, unless it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
