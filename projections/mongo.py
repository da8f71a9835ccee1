"""The views in MongoDB: a batch of events becomes one transaction with the new positions of the views it is for."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

from pymongo import DeleteMany, IndexModel, ReadPreference, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from infrastructure.event_log.reader import Logged
from infrastructure.mongodb import Database
from projections.coalesce import Change, Tally, coalesce
from projections.parking import ViewDiverged, due, released
from projections.positions import Fenced, Place, Positions
from projections.read_models import INDEXES, VIEWS, Document, View, deletes, key, writes

EMPTIED_AT_ONCE = 2_000
REMOVED_AT_ONCE = 500
"""Documents of deleted conversations in one transaction: each has a time limit, and must fit into MongoDB's cache."""

_MANY: frozenset[View] = frozenset({"items", "responses"})
"""The views that have any number of documents of a conversation."""

_DUPLICATE_KEY = 11000
_TRANSIENT = ("TransientTransactionError", "UnknownTransactionCommitResult")


class MongoViews:
    """Writes `conversations`, `items` and `responses`."""

    views: tuple[str, ...] = VIEWS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = Positions(database)

    async def prepare(self) -> None:
        """Makes the indexes that are missing, and with them the collections."""
        places = await self._positions.load(VIEWS)
        for view in VIEWS:
            collection = places[view].collection if view in places else view
            await self._database[collection].create_indexes([IndexModel(list(index)) for index in INDEXES[view]])

    async def apply(self, places: Sequence[Place], new: int, batch: Sequence[Logged]) -> list[Place]:
        """Writes the batch into views that stand at one position with the same conversations parked, and moves them to `new`.

        All of it or nothing, but where it deletes large conversations: then the views may stop in front of a deletion.
        Says where the views stand then. Raises Fenced when a view was elsewhere (or may be: the commit's answer was lost),
        UnreadableEvent, ViewDiverged, and PyMongoError.
        """
        batch = due(batch, places[0].parked)
        while (index := await self._too_many(places, batch)) is not None:
            if index:
                places = await self._commit(places, batch[index - 1].position, batch[:index])
            batch = batch[index:]
            await self._remove(places, batch[0])
        return await self._commit(places, new, batch)

    async def _too_many(self, places: Sequence[Place], batch: Sequence[Logged]) -> int | None:
        """Where in the batch the deletion is with which more than REMOVED_AT_ONCE documents would go."""
        found = 0
        for index, logged in enumerate(batch):
            if deletes(logged):
                for place in places:
                    if place.shows not in _MANY:
                        continue
                    collection = self._database[place.collection]
                    found += await collection.count_documents(_documents_of(logged), limit=REMOVED_AT_ONCE + 1)
                if found > REMOVED_AT_ONCE:
                    return index
        return None

    async def _remove(self, places: Sequence[Place], deleted: Logged) -> None:
        """Removes a conversation's documents step by step. Its deletion is the next event of the views, where they stand.

        So that no event in between misses them, whoever goes on from here.
        """
        for place in places:
            if place.shows in _MANY:
                while idents := await self.some(place.collection, _documents_of(deleted), REMOVED_AT_ONCE):
                    await self._remove_some(place, idents)

    async def _commit(self, places: Sequence[Place], new: int, batch: Sequence[Logged]) -> list[Place]:
        shown = {place.shows for place in places}
        tallies = coalesce(write for write in chain.from_iterable(map(writes, batch)) if write.view in shown)
        async with self.transaction([place.view for place in places], places[0].position) as session:
            moved = await self._positions.advance(places, new, released(batch, places[0].parked), session)
            for place in places:
                for view, tally in tallies.items():
                    if view == place.shows:
                        await self.write(view, place.collection, tally, session)
        return moved

    async def empty_some(self, place: Place) -> bool:
        """Removes some documents of a view that is being emptied; says whether it is empty now."""
        idents = await self.some(place.collection, {}, EMPTIED_AT_ONCE)
        if not idents:
            await self.prepare()  # they may have gone with the collection
            await self._positions.emptied(place)
            return True
        await self._remove_some(place, idents)
        return False

    async def some(self, collection: str, where: Document, limit: int) -> list[str]:
        """The `_id`s of some documents."""
        return [found["_id"] async for found in self._database[collection].find(where, {"_id": 1}).limit(limit)]

    async def _remove_some(self, place: Place, idents: Sequence[str]) -> None:
        """Removes these documents of a view. Raises Fenced when it has left its place."""
        async with self.transaction((place.view,), place.position) as session:
            await self._positions.hold(place, session)
            await self._database[place.collection].delete_many({"_id": {"$in": idents}}, session=session)

    @asynccontextmanager
    async def transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
        """A transaction of views that stand at `position`. Raises Fenced when it meets another one."""
        async with self._database.client.start_session() as session:
            try:
                async with await session.start_transaction(
                    read_concern=ReadConcern("snapshot"),
                    write_concern=WriteConcern(w="majority", j=True),
                    read_preference=ReadPreference.PRIMARY,
                ):
                    yield session
            except OperationFailure as error:
                if any(map(error.has_error_label, _TRANSIENT)):
                    raise Fenced(views, position) from error
                raise

    async def write(self, view: View, name: str, tally: Tally, session: AsyncClientSession) -> None:
        """Writes what a batch comes to in one view, to the collection of that name. Raises ViewDiverged and PyMongoError."""
        collection = self._database[name]
        try:
            if tally.updates:
                updates = [UpdateOne({"_id": ident}, _operators(change)) for ident, change in tally.updates.items()]
                updated = await collection.bulk_write(updates, ordered=False, session=session)
                if updated.matched_count != len(updates):
                    raise ViewDiverged(
                        view, f"{len(updates) - updated.matched_count} documents that change are not there"
                    )
            if tally.removed and view == "conversations":
                gone = [key(tenant, conversation_id) for tenant, conversation_id in tally.removed]
                await collection.delete_many({"_id": {"$in": gone}}, session=session)
            elif tally.removed:
                removals = [DeleteMany({"tenant": t, "conversation_id": c}) for t, c in tally.removed]
                await collection.bulk_write(removals, ordered=False, session=session)
            if tally.inserts:
                await collection.insert_many(tally.inserts.values(), ordered=False, session=session)
        except BulkWriteError as error:
            codes = {failed["code"] for failed in error.details.get("writeErrors", ())}
            if _DUPLICATE_KEY in codes:
                raise ViewDiverged(view, "a document that comes in is there already") from error
            raise


def _documents_of(deleted: Logged) -> Document:
    return {"tenant": deleted.tenant, "conversation_id": deleted.conversation_id}


def _operators(change: Change) -> dict[str, Any]:
    operators: dict[str, Any] = {}
    if change.set:
        operators["$set"] = change.set
    if change.add:
        operators["$inc"] = change.add
    return operators
