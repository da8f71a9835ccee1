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

from domain.events import ConversationDeleted
from infrastructure.event_log.reader import Recorded
from infrastructure.mongodb import Database
from projections.coalesce import Change, Tally, coalesce
from projections.positions import BEFORE_ALL, Fenced, Positions
from projections.read_models import INDEXES, VIEWS, Document, View, key, writes

EMPTIED_AT_ONCE = 2_000
REMOVED_AT_ONCE = 500
"""Documents of deleted conversations in one transaction: each has a time limit, and must fit into MongoDB's cache."""

_MANY: frozenset[View] = frozenset({"items", "responses"})
"""The views that have any number of documents of a conversation."""

_DUPLICATE_KEY = 11000
_TRANSIENT = ("TransientTransactionError", "UnknownTransactionCommitResult")


class ViewDiverged(Exception):
    """A view does not hold what the log says it must: a document is there that an event inserts, or is gone that one changes.

    Nothing was written. Rebuild the view.
    """

    def __init__(self, view: str, what: str) -> None:
        super().__init__(f"The view {view} is not what its position says: {what}")


class MongoViews:
    """Writes `conversations`, `items` and `responses`."""

    views: tuple[str, ...] = VIEWS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = Positions(database)

    async def prepare(self) -> None:
        """Makes the indexes that are missing, and with them the collections."""
        for view in VIEWS:
            await self._database[view].create_indexes([IndexModel(list(index)) for index in INDEXES[view]])

    async def apply(self, views: Collection[str], old: int, new: int, batch: Sequence[Recorded]) -> None:
        """Writes the batch into `views`, all of which stand at `old`, and moves them to `new`.

        All of it or nothing, but where it deletes large conversations: then the views may stop in front of a deletion.
        Raises Fenced when a view was elsewhere (or may be: the commit's answer was lost), ViewDiverged, and PyMongoError.
        """
        while (index := await self._too_many(views, batch)) is not None:
            if index:
                await self._commit(views, old, batch[index - 1].position, batch[:index])
                old = batch[index - 1].position
            batch = batch[index:]
            await self._remove(views, old, batch[0])
        await self._commit(views, old, new, batch)

    async def _too_many(self, views: Collection[str], batch: Sequence[Recorded]) -> int | None:
        """Where in the batch the deletion is with which more than REMOVED_AT_ONCE documents would go."""
        found = 0
        for index, recorded in enumerate(batch):
            if isinstance(recorded.event, ConversationDeleted):
                for view in _MANY.intersection(views):
                    collection = self._database[view]
                    found += await collection.count_documents(_documents_of(recorded), limit=REMOVED_AT_ONCE + 1)
                if found > REMOVED_AT_ONCE:
                    return index
        return None

    async def _remove(self, views: Collection[str], position: int, deleted: Recorded) -> None:
        """Removes a conversation's documents step by step. Its deletion is the next event of the views, which stand at `position`.

        So that no event in between misses them, whoever goes on from here.
        """
        for view in _MANY.intersection(views):
            while idents := await self._some(view, _documents_of(deleted), REMOVED_AT_ONCE):
                await self._remove_some(view, position, idents)

    async def _commit(self, views: Collection[str], old: int, new: int, batch: Sequence[Recorded]) -> None:
        tallies = coalesce(write for write in chain.from_iterable(map(writes, batch)) if write.view in views)
        async with self._transaction(views, old) as session:
            await self._positions.advance(views, old, new, session)
            for view, tally in tallies.items():
                await self._write(view, tally, session)

    async def empty_some(self, view: str) -> bool:
        """Removes some documents of a view that is being emptied; says whether it is empty now."""
        idents = await self._some(view, {}, EMPTIED_AT_ONCE)
        if not idents:
            await self.prepare()  # they may have gone with the collection
            await self._positions.emptied(view)
            return True
        await self._remove_some(view, BEFORE_ALL, idents)
        return False

    async def _some(self, view: str, where: Document, limit: int) -> list[str]:
        """The `_id`s of some documents."""
        return [found["_id"] async for found in self._database[view].find(where, {"_id": 1}).limit(limit)]

    async def _remove_some(self, view: str, position: int, idents: Sequence[str]) -> None:
        """Removes these documents of a view that stands at `position`. Raises Fenced when it is elsewhere."""
        async with self._transaction((view,), position) as session:
            await self._positions.hold(view, position, session)
            await self._database[view].delete_many({"_id": {"$in": idents}}, session=session)

    @asynccontextmanager
    async def _transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
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

    async def _write(self, view: View, tally: Tally, session: AsyncClientSession) -> None:
        collection = self._database[view]
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


def _documents_of(deleted: Recorded) -> Document:
    return {"tenant": deleted.tenant, "conversation_id": deleted.conversation_id}


def _operators(change: Change) -> dict[str, Any]:
    operators: dict[str, Any] = {}
    if change.set:
        operators["$set"] = change.set
    if change.add:
        operators["$inc"] = change.add
    return operators
