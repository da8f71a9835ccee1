"""Brings the views of one store forward, and never stops: outages are waited out, an event that fails is tried again.

Views that stand at the same position are written together. One that lags (a rebuild) takes turns with the others, and goes
no further than the next position ahead, so that it meets them there. Where a batch fails for another reason than a
store that is away, its views go on one by one, and the one that fails as `trouble.py` says. Nothing is ever skipped.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Protocol

import psycopg
import redis.exceptions
import structlog
from pymongo.errors import ConnectionFailure

from infrastructure.event_log.reader import Recorded
from infrastructure.metrics import Metrics
from projections.bell import Bell, Signal
from projections.feed import BATCH_EVENTS, Batch, Feed
from projections.positions import Fenced, Place, Positions
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


class Sink(Protocol):
    """A store with views: `MongoViews`, `ContextView`."""

    views: tuple[str, ...]

    async def prepare(self) -> None:
        """Makes what the views need before their first write."""

    async def apply(self, views: Collection[str], old: int, new: int, batch: Sequence[Recorded]) -> None:
        """Writes the batch into the views, and moves them from `old` to `new`. Raises Fenced when they are elsewhere."""

    async def empty_some(self, view: str) -> bool:
        """Removes some of a view that is being emptied; says whether it is empty now. Raises Fenced."""


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
        if not self._known:
            await self._load()
        moved = False
        for views, until in self._groups():
            moved |= await self._step(views, until)
        return moved

    async def _load(self) -> None:
        places = await self._positions.load(self._views)
        if missing := [view for view in self._views if view not in places]:
            head = await self._feed.last_position()
            for view in missing:
                await self._positions.begin(view, head)
            places = await self._positions.load(self._views)
        if await self._reset_ahead(places):
            places = await self._positions.load(self._views)
        for view, place in places.items():
            if (before := self.places.get(view)) is None or before.state != place.state:
                log.info("projection_state", projection=view, state=place.state, position=place.position)
        self.places = places
        self._known = True

    async def _reset_ahead(self, places: dict[str, Place]) -> bool:
        """Begins anew with views that show more than the log has, as after Postgres was restored from an older backup."""
        furthest = max(place.position for place in places.values())
        # A position is written after its events can be read. So the log ends behind it, or has lost it; asked twice to be sure.
        if furthest <= await self._feed.last_position() or furthest <= (last := await self._feed.last_position()):
            return False
        for place in places.values():
            if place.position > last:
                log.error("projection_ahead_of_log", projection=place.view, position=place.position, log_ends_at=last)
                await self._positions.reset(place.view, last)
        return True

    def _groups(self) -> list[tuple[list[str], int | None]]:
        """The views to write together, those behind first, and how far each group may go."""
        alone = [view for view in self.places if view in self._troubles or self.places[view].state == "emptying"]
        together = sorted((it for it in self.places.values() if it.view not in alone), key=lambda it: it.position)
        groups = [
            (position, [it.view for it in group]) for position, group in groupby(together, key=lambda it: it.position)
        ]
        ahead = [position for position, _ in groups[1:]]
        return [(views, until) for (_, views), until in zip(groups, [*ahead, None], strict=False)] + [
            ([view], None) for view in alone if not self._troubles.waits(view)
        ]

    async def _step(self, views: Sequence[str], until: int | None) -> bool:
        """One batch for views that stand together; says whether there may be more to do at once."""
        place = self.places[views[0]]
        if place.state == "emptying":
            self._known = False
            return await self._sink.empty_some(views[0]) or True
        limit = BATCH_EVENTS if until is None else BEHIND_EVENTS
        limit = min([limit, *(self._troubles.limit(view) for view in views)])
        batch = Batch(place.position, [])
        try:
            batch = await self._feed.after(place.position, until=until, limit=limit)
            if not batch.events:
                return False
            await self._sink.apply(views, place.position, batch.end, batch.events)
        except (Fenced, *_AWAY):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it must neither stop the other views nor be skipped
            if len(views) > 1:
                return bool(sum([await self._step([view], until) for view in views]))
            return self._troubles.failed(place, batch, error)
        self._applied(views, batch)
        return True

    def _applied(self, views: Sequence[str], batch: Batch) -> None:
        now = time.time()
        for view in views:
            before = self.places[view]
            place = self.places[view] = before.moved(batch.end)
            self._metrics.projection_position.labels(view).set(place.position)
            if before.state == "live":
                observe = self._metrics.projection_lag_seconds.labels(view).observe
                for recorded in batch.events:
                    observe(max(0.0, now - recorded.recorded_at.timestamp()))
            elif place.state == "live":
                log.info("projection_state", projection=view, state=place.state, position=place.position)
            self._troubles.written(view, batch)
            log.debug("projection_moved", projection=view, position=place.position, events=len(batch.events))
        if log.is_enabled_for(_DEBUG):
            for recorded in batch.events:
                log.debug(
                    "event_projected",
                    request_id=recorded.correlation_id,
                    conversation_id=recorded.conversation_id,
                    version=recorded.version,
                    position=recorded.position,
                    event_type=recorded.event.topic,
                    projections=list(views),
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


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Waits, unless it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
