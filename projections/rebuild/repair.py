"""Repairs one conversation in the views: removes its documents, and writes them again from the log.

Meanwhile the conversation is parked, so projectors apply only its deletion. A step that writes events also records its
progress, so no event is counted twice. The last step ends the parking. An interrupted repair leaves the conversation
parked. In `usage`, nothing is removed, and only the events since the parking are added.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal, TypeVar

from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession
from redis.asyncio import Redis

from context.snapshot_from_log import refill
from context.snapshot_store import put_snapshot
from context.snapshots import Snapshot, snapshot_keys
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged, UnreadableRecord
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import mint
from infrastructure.stores.mongodb import Database
from projections.coalesce import coalesce
from projections.mongo_views import MongoViews
from projections.parking import is_caused_by_event, parked_for
from projections.rebuild.repair_claims import RepairClaims
from projections.retry_moved import retry_while_moved
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS, CONTEXT, CONVERSATION_VIEWS, MONGO_VIEWS, USAGE, MongoView
from projections.views.event_writes import event_writes
from projections.views.view_position import Parked, ViewPosition
from projections.views.writes import Document, document_key

PAGE_EVENTS = 200
REMOVED_PER_STEP = 500

T = TypeVar("T")

Outcome = Literal["repaired", "parked", "deleted", "released", "lost", "skipped"]
"""How the repair of a view ended.

parked: an event still cannot be applied.
deleted: the conversation is deleted, so the view shows nothing of it (`usage` still counts it).
released: another repair finished first, the conversation was deleted meanwhile, or the view started over.
lost: another repair has claimed the conversation.
skipped: no projector has started the view yet.
"""


class Repaired(Struct, frozen=True, kw_only=True):
    view: str
    outcome: Outcome
    parked: Parked | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the view shows the conversation correctly, or will do so after it catches up."""
        return self.outcome not in ("parked", "lost")


class _ClaimLost(Exception):
    pass


class Repair:
    """One repair of a conversation.

    `head`: the conversation's last event. `progress` gets the version that the repair has reached.
    """

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
        self._conversation_id = conversation_id
        self._head = head
        self._reader = reader
        self._database = database
        self._mongo_views = MongoViews(database)
        self._positions = ViewPositions(database)
        self._redis = redis
        self._progress = progress
        self._repair_id = mint("repair")
        self._claims = RepairClaims(database, conversation_id, self._repair_id)

    async def run(self) -> list[Repaired]:
        """Repairs the views in which the conversation is parked, or all views if no view has it parked.

        Raises PyMongoError, RedisError and psycopg.Error.
        """
        statuses = await self._positions.statuses(ALL_VIEWS)
        parked_in = [view for view, status in statuses.items() if self._conversation_id in status.parked]
        return [await self._repair(view) for view in ALL_VIEWS if view in (parked_in or ALL_VIEWS)]

    async def _repair(self, view: str) -> Repaired:
        if not await self._claims.claim(view, self._claim_entry()):
            return Repaired(view=view, outcome="skipped")
        try:
            if view == CONTEXT:
                still_parked = await self._rebuild_snapshot()
            else:
                still_parked = await self._rebuild_documents(next(name for name in MONGO_VIEWS if name == view))
        except _ClaimLost:
            return Repaired(view=view, outcome=await self._lost_outcome(view))
        if still_parked is not None:
            await self._claims.give_up(view, still_parked)
            return Repaired(view=view, outcome="parked", parked=still_parked)
        return Repaired(view=view, outcome="deleted" if self._head.deleted else "repaired")

    def _claim_entry(self) -> Parked:
        return Parked(
            tenant=self._head.tenant,
            position=self._head.position,
            version=self._head.version,
            topic="",
            error="Repair",
            at=time.time_ns() // 1_000,
            repair=self._repair_id,
        )

    async def _lost_outcome(self, view: str) -> Outcome:
        status = (await self._positions.statuses([view])).get(view)
        return "lost" if status is not None and self._conversation_id in status.parked else "released"

    async def _rebuild_documents(self, view: MongoView) -> Parked | None:
        """Returns the reason if the conversation stays parked."""
        while view in CONVERSATION_VIEWS and await self._retry(lambda: self._remove_some(view)):
            pass
        if self._head.deleted and view in CONVERSATION_VIEWS:
            await self._retry(lambda: self._finish_deleted(view))
            return None
        version, limit = 0, PAGE_EVENTS
        while True:
            page = await self._reader.conversation_logged(self._conversation_id, after=version, limit=limit)
            try:
                finished, version = await self._retry(partial(self._write_page, view, page, version))
            except _ClaimLost:
                raise
            except Exception as error:
                if not page or not is_caused_by_event(error):
                    raise
                if len(page) == 1:
                    return parked_for(page[0], error)
                limit = len(page) // 2
                continue
            self._progress(version)
            if finished:
                return None

    async def _remove_some(self, view: MongoView) -> bool:
        """Returns whether there were any documents."""
        tenant = self._head.tenant
        where: Document = {"tenant": tenant, "conversation_id": self._conversation_id}
        if view == "conversations":
            where = {"_id": document_key(tenant, self._conversation_id)}
        async with self._step(view) as (session, view_position):
            keys = await self._mongo_views.some_keys(view_position.collection, where, REMOVED_PER_STEP)
            collection = self._database[view_position.collection]
            await collection.delete_many({"_id": {"$in": keys}}, session=session)
        return bool(keys)

    async def _write_page(self, view: MongoView, page: Sequence[Logged], version: int) -> tuple[bool, int]:
        """Writes the events after `version`.

        Returns (whether the view now shows all events up to its position, the version reached).
        """
        async with self._step(view) as (session, view_position):
            parked = view_position.parked[self._conversation_id]
            if parked.done != version:
                return False, parked.done  # this step was done before, and its answer was lost
            shown = [logged for logged in page if logged.position <= view_position.position]
            # `usage` already counts the events before the parking.
            to_write = [logged for logged in shown if view != USAGE or logged.position >= parked.position]
            writes = (write for logged in to_write for write in event_writes(logged) if write.view == view)
            for batch in coalesce(writes).values():
                await self._mongo_views.write(view, view_position.collection, batch, session)
            version = shown[-1].version if shown else version
            following: Sequence[Logged] = []
            if len(shown) == len(page):
                following = await self._reader.conversation_logged(self._conversation_id, after=version, limit=1)
            finished = len(shown) < len(page) or not following or following[0].position > view_position.position
            if finished:
                await self._claims.finish(view, session)
            else:
                counted = max(parked.position - 1, shown[-1].position) if shown and view == USAGE else None
                await self._claims.record_progress(view, session, done=version, counted=counted)
        return finished, version

    async def _finish_deleted(self, view: MongoView) -> None:
        """If the view has not reached the deletion yet, the deletion will end the parking."""
        async with self._step(view) as (session, view_position):
            if view_position.position >= self._head.position:
                await self._claims.finish(view, session)

    async def _rebuild_snapshot(self) -> Parked | None:
        """Returns the reason if the conversation stays parked."""
        tenant, version = self._head.tenant, self._head.version
        await self._redis.unlink(*snapshot_keys(tenant, self._conversation_id))
        try:
            if self._head.deleted:
                tombstone = Snapshot(version=version, deleted=True, incarnation=self._head.incarnation)
                await put_snapshot(self._redis, tenant, self._conversation_id, tombstone)
            else:
                await refill(self._reader, self._redis, tenant, self._conversation_id, version)
        except Exception as error:
            if not is_caused_by_event(error):
                raise
            return parked_for(await self._failing_event(), error)
        await self._retry(self._finish_snapshot)
        self._progress(version)
        return None

    async def _finish_snapshot(self) -> None:
        async with self._step(CONTEXT) as (session, _):
            await self._claims.finish(CONTEXT, session)

    async def _failing_event(self) -> Logged:
        """The last event that cannot be decoded, or the conversation's last event if all can be decoded."""
        unreadable: Logged | None = None
        page = last = await self._reader.conversation_logged(self._conversation_id, limit=PAGE_EVENTS)
        while page:
            unreadable = next((logged for logged in reversed(page) if isinstance(logged, UnreadableRecord)), unreadable)
            last = page
            page = await self._reader.conversation_logged(
                self._conversation_id, after=page[-1].version, limit=PAGE_EVENTS
            )
        return unreadable or last[-1]

    @asynccontextmanager
    async def _step(self, view: str) -> AsyncIterator[tuple[AsyncClientSession, ViewPosition]]:
        """A transaction that locks the claim and the view's position. Raises _ClaimLost. After PositionMoved, retry the step."""
        async with self._mongo_views.transaction((view,), 0) as session:
            view_position = await self._claims.lock(view, session)
            if view_position is None:
                raise _ClaimLost
            yield session, view_position

    async def _retry(self, step: Callable[[], Awaitable[T]]) -> T:
        return await retry_while_moved(step, first_pause=0.005, max_pause=0.2, leaves_time=True)
