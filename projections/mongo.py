"""The views in MongoDB: a batch of events becomes one transaction with the new positions of the views it is for."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

from pymongo import DeleteMany, IndexModel, ReadPreference, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from infrastructure.event_log.reader import Recorded
from infrastructure.mongodb import Database
from projections.coalesce import Change, Tally, coalesce
from projections.positions import Fenced, Positions
from projections.read_models import INDEXES, VIEWS, View, key, writes

EMPTIED_AT_ONCE = 2_000
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
        """Writes the batch into `views`, all of which stand at `old`, and moves them to `new`: all of it or nothing.

        Raises Fenced when a view was elsewhere (or may be: the commit's answer was lost), ViewDiverged, and PyMongoError.
        """
        tallies = coalesce(write for write in chain.from_iterable(map(writes, batch)) if write.view in views)
        async with self._database.client.start_session() as session:
            try:
                async with await session.start_transaction(
                    read_concern=ReadConcern("snapshot"),
                    write_concern=WriteConcern(w="majority", j=True),
                    read_preference=ReadPreference.PRIMARY,
                ):
                    await self._positions.advance(views, old, new, session)
                    for view, tally in tallies.items():
                        await self._write(view, tally, session)
            except OperationFailure as error:
                if any(map(error.has_error_label, _TRANSIENT)):
                    raise Fenced(views, old) from error
                raise

    async def empty_some(self, view: str) -> bool:
        """Removes some documents of a view that is being emptied; says whether it is empty now."""
        collection = self._database[view]
        idents = [found["_id"] async for found in collection.find({}, {"_id": 1}).limit(EMPTIED_AT_ONCE)]
        if not idents:
            await self.prepare()  # they may have gone with the collection
            await self._positions.emptied(view)
            return True
        async with self._database.client.start_session() as session:
            try:
                async with await session.start_transaction():
                    await self._positions.hold_empty(view, session)
                    await collection.delete_many({"_id": {"$in": idents}}, session=session)
            except OperationFailure as error:
                if any(map(error.has_error_label, _TRANSIENT)):
                    raise Fenced((view,), -1) from error
                raise
        return False

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


def _operators(change: Change) -> dict[str, Any]:
    operators: dict[str, Any] = {}
    if change.set:
        operators["$set"] = change.set
    if change.add:
        operators["$inc"] = change.add
    return operators
