"""Brings one conversation back in views that have it parked: its documents are removed, and made anew from the log.

While that goes on it stays parked, claimed by this repair, so that no projector writes to it. Every step is a transaction that
holds the claim (and says how far it has come, so that none is done twice when its answer was lost); the last one finds the
view where it stands, writes what is missing up to there, and ends the parking. Broken off anywhere, it leaves the
conversation parked, and the next repair begins anew. A deletion that comes meanwhile wins. Totals are not taken back: to them
is added what came since the conversation was parked.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import Literal, TypeVar

from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession
from redis.asyncio import Redis

from context.snapshot_from_log import refill
from context.snapshot_store import put_snapshot
from context.snapshots import Snapshot, snapshot_key
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged, UnreadableRecord
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import mint
from infrastructure.stores.mongodb import Database
from projections.cancellation import heed_cancellation
from projections.coalesce import coalesce
from projections.mongo_views import MongoViews
from projections.parking import is_of_the_event, parked_for
from projections.view_positions import PositionMoved, ViewPositions
from projections.views.catalog import ALL_VIEWS, CONTEXT, CONVERSATION_VIEWS, MONGO_VIEWS, USAGE, MongoView
from projections.views.event_writes import event_writes
from projections.views.view_position import Parked, ViewPosition
from projections.views.writes import Document, document_key

EVENTS_AT_ONCE = 200
REMOVED_AT_ONCE = 500
_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.005, 0.2

T = TypeVar("T")

Outcome = Literal["repaired", "parked", "deleted", "released", "lost", "skipped"]
"""What became of a view: `parked`: an event can still not be applied. `deleted`: its deletion, here or ahead, is all there is
to show. `released`: meanwhile it was unparked by another, or the whole view is made anew. `lost`: another repair has taken it
over. `skipped`: no projector has begun with the view: it will be made from the log anyway."""


class Repaired(Struct, frozen=True, kw_only=True):
    """How the repair of one view ended; `parked` says why, where it is still parked."""

    view: str
    outcome: Outcome
    parked: Parked | None = None

    @property
    def is_well(self) -> bool:
        """Whether the view shows the conversation as it should, or will as soon as it comes to it."""
        return self.outcome not in ("parked", "lost")


class _ClaimLost(Exception):
    """The conversation is not parked for this repair any more."""


class Repair:
    """The repair of one conversation. `head` is where it ends in the log. `progress` is told how many versions are done."""

    def __init__(
        self,
        conversation_id: str,
        head: Head,
        *,
        reader: EventReader,
        database: Database,
        redis: Redis,
        progress: Callable[[int], None] = lambda _version: None,
    ) -> None:
        self._ident = conversation_id
        self._head = head
        self._reader = reader
        self._database = database
        self._mongo = MongoViews(database)
        self._positions = ViewPositions(database)
        self._redis = redis
        self._progress = progress
        self._name = mint("repair")

    async def run(self) -> list[Repaired]:
        """Repairs the views that have it parked; all of them when none has. Raises PyMongoError, RedisError, psycopg.Error."""
        standings = await self._positions.statuses(ALL_VIEWS)
        views = [view for view, it in standings.items() if self._ident in it.parked] or [*ALL_VIEWS]
        return [await self._repaired(view) for view in ALL_VIEWS if view in views]

    async def _repaired(self, view: str) -> Repaired:
        if not await self._positions.claim(view, self._ident, self._claim()):
            return Repaired(view=view, outcome="skipped")
        try:
            if view == CONTEXT:
                failed = await self._snapshot()
            else:
                failed = await self._documents(next(each for each in MONGO_VIEWS if each == view))
        except _ClaimLost:
            return Repaired(view=view, outcome=await self._why_lost(view))
        if failed is not None:
            await self._positions.explain(view, self._ident, self._name, failed)
            return Repaired(view=view, outcome="parked", parked=failed)
        return Repaired(view=view, outcome="deleted" if self._head.deleted else "repaired")

    def _claim(self) -> Parked:
        """The entry of a conversation that is parked for its repair alone."""
        return Parked(
            tenant=self._head.tenant,
            position=self._head.position,
            version=self._head.version,
            topic="",
            error="Repair",
            at=time.time_ns() // 1_000,
            repair=self._name,
        )

    async def _why_lost(self, view: str) -> Outcome:
        standing = (await self._positions.statuses([view])).get(view)
        return "lost" if standing is not None and self._ident in standing.parked else "released"

    async def _documents(self, view: MongoView) -> Parked | None:
        """Removes its documents and makes them anew; says what keeps it parked, if anything does."""
        while view in CONVERSATION_VIEWS and await self._patiently(lambda: self._remove(view)):
            pass
        if self._head.deleted and view in CONVERSATION_VIEWS:
            await self._patiently(lambda: self._end_deleted(view))
            return None
        version, limit = 0, EVENTS_AT_ONCE
        while True:
            page = await self._reader.conversation_logged(self._ident, after=version, limit=limit)
            try:
                ended, version = await self._patiently(partial(self._fill, view, page, version))
            except _ClaimLost:
                raise
            except Exception as error:
                if not page or not is_of_the_event(error):
                    raise
                if len(page) == 1:
                    return parked_for(page[0], error)
                limit = len(page) // 2
                continue
            self._progress(version)
            if ended:
                return None

    async def _remove(self, view: MongoView) -> bool:
        """Removes some of its documents; says whether there were any."""
        tenant = self._head.tenant
        where: Document = {"tenant": tenant, "conversation_id": self._ident}
        if view == "conversations":
            where = {"_id": document_key(tenant, self._ident)}
        async with self._step(view) as (session, place):
            idents = await self._mongo.some(place.collection, where, REMOVED_AT_ONCE)
            await self._database[place.collection].delete_many({"_id": {"$in": idents}}, session=session)
        return bool(idents)

    async def _fill(self, view: MongoView, page: Sequence[Logged], version: int) -> tuple[bool, int]:
        """Writes a page's events behind `version`; says whether that was all there is for the view, and what it shows now."""
        async with self._step(view) as (session, place):
            parked = place.parked[self._ident]
            if parked.done != version:
                return False, parked.done  # this step was done before, and its answer was lost
            shown = [logged for logged in page if logged.position <= place.position]
            missing = [logged for logged in shown if view != USAGE or logged.position >= parked.position]
            for tally in coalesce(
                it for it in chain.from_iterable(map(event_writes, missing)) if it.view == view
            ).values():
                await self._mongo.write(view, place.collection, tally, session)
            version = shown[-1].version if shown else version
            more = (
                []
                if len(shown) < len(page)
                else await self._reader.conversation_logged(self._ident, after=version, limit=1)
            )
            ended = len(shown) < len(page) or not more or more[0].position > place.position
            counted = max(parked.position - 1, shown[-1].position) if shown and view == USAGE else None
            await self._positions.claimed(
                view, self._ident, self._name, session, done=version, counted=counted, ends=ended
            )
        return ended, version

    async def _end_deleted(self, view: MongoView) -> None:
        """Ends the parking of what was deleted; where the view does not show that yet, its deletion will."""
        async with self._step(view) as (session, place):
            if place.position >= self._head.position:
                await self._positions.claimed(view, self._ident, self._name, session, ends=True)

    async def _snapshot(self) -> Parked | None:
        """Makes the snapshot anew; says what keeps it parked, if anything does."""
        tenant, version = self._head.tenant, self._head.version
        await self._redis.unlink(snapshot_key(tenant, self._ident))
        try:
            if self._head.deleted:
                await put_snapshot(self._redis, tenant, self._ident, Snapshot(version=version, deleted=True))
            else:
                await refill(self._reader, self._redis, tenant, self._ident, version)
        except Exception as error:
            if not is_of_the_event(error):
                raise
            return parked_for(await self._at_fault(), error)
        await self._patiently(self._end_snapshot)
        self._progress(version)
        return None

    async def _end_snapshot(self) -> None:
        async with self._step(CONTEXT) as (session, _):
            await self._positions.claimed(CONTEXT, self._ident, self._name, session, ends=True)

    async def _at_fault(self) -> Logged:
        """The last event that can not be read; where all can, the last of all."""
        found: Logged | None = None
        page = last = await self._reader.conversation_logged(self._ident, limit=EVENTS_AT_ONCE)
        while page:
            found = next((logged for logged in reversed(page) if isinstance(logged, UnreadableRecord)), found)
            last = page
            page = await self._reader.conversation_logged(self._ident, after=page[-1].version, limit=EVENTS_AT_ONCE)
        return found or last[-1]

    @asynccontextmanager
    async def _step(self, view: str) -> AsyncIterator[tuple[AsyncClientSession, ViewPosition]]:
        """A transaction that holds the claim, and with it the view where it stands. Raises _ClaimLost, and PositionMoved: try again."""
        async with self._mongo.transaction((view,), 0) as session:
            place = await self._positions.claimed(view, self._ident, self._name, session)
            if place is None:
                raise _ClaimLost
            yield session, place

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Does a step as soon as no projector is in its way, and leaves the projectors as much time as it took."""
        pause = _FIRST_PAUSE
        while True:
            heed_cancellation()
            began = time.monotonic()
            try:
                done = await step()
            except PositionMoved:
                await asyncio.sleep(pause)
                pause = min(_MAX_PAUSE_SECONDS, 2 * pause)
            else:
                await asyncio.sleep(time.monotonic() - began)
                heed_cancellation()
                return done
