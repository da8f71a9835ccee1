"""The views in MongoDB: a batch of events becomes one transaction with the new positions of the views it is for."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

from bson import Binary
from msgspec import Struct
from pymongo import IndexModel, ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from infrastructure.event_log.recorded import Logged
from infrastructure.stores.mongo_pipeline import Answer, together
from infrastructure.stores.mongodb import Database
from projections.coalesce import Change, Tally
from projections.parking import ViewDiverged, released
from projections.view_positions import Advance, PositionMoved, ViewPositions, advances
from projections.views.catalog import INDEXES, MONGO_VIEWS, POSITIONS_COLLECTION, USAGE
from projections.views.event_writes import event_writes, is_deletion
from projections.views.partitions import partition_of
from projections.views.view_position import BUILD_SUFFIX, ViewPosition
from projections.views.writes import Document, document_key

REMOVED_AT_ONCE = 500
"""Documents of deleted conversations in one transaction: each has a time limit, and must fit into MongoDB's cache."""

_MANY: frozenset[str] = frozenset({"items", "responses"})
"""The views that have any number of documents of a conversation."""

_DUPLICATE_KEY = 11000
_TRANSIENT = ("TransientTransactionError", "UnknownTransactionCommitResult")


class MongoViews:
    """Writes the views that are collections."""

    views: tuple[str, ...] = MONGO_VIEWS
    pace_seconds = 0.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = ViewPositions(database)
        self._session: AsyncClientSession | None = None

    @property
    def holder(self) -> UUID:
        """The id of the one session that its transactions are in, by which others can end what it has left open."""
        session_id: UUID = self._own_session().session_id["id"].as_uuid()
        return session_id

    def _own_session(self) -> AsyncClientSession:
        if self._session is None:
            self._session = self._database.client.start_session()
        return self._session

    async def close(self) -> None:
        """Gives the session back."""
        if self._session is not None:
            await self._session.end_session()
            self._session = None

    async def end_others(self, holders: Sequence[UUID]) -> None:
        """Ends the sessions of these, and with them transactions that hold locks for nobody."""
        sessions = [{"id": Binary.from_uuid(holder)} for holder in holders]
        await self._database.client.admin.command("killSessions", sessions)

    async def prepare(self) -> None:
        """Makes the indexes that are missing, and with them the collections."""
        await self._positions.prepare()
        for place in {place.view: place for place in await self._positions.load(MONGO_VIEWS)}.values():
            await make_indexes(self._database, place.base_view, place.collection)

    async def begin_anew(
        self, view: str, target: int, *, only_first: bool = False, only_ahead_of: int | None = None
    ) -> None:
        """A new collection becomes the view; what it was before is dropped, as is its other generation. Raises PositionMoved."""
        shown = {place.collection for place in await self._positions.load((view, f"{view}{BUILD_SUFFIX}"))}
        names = await self._collections(view)
        taken = [name for name in names if name in shown or await self._database[name].find_one({}, {"_id": 1})]
        collection = unused(view, taken)
        await make_indexes(self._database, view, collection)
        async with self.transaction((view,), 0) as session:
            if not await self._positions.begin_anew(
                view, collection, target, session, only_first=only_first, only_ahead_of=only_ahead_of
            ):
                return
        # Only what was there before: another may have begun anew since.
        used = {place.collection for place in await self._positions.load((view, f"{view}{BUILD_SUFFIX}"))}
        for name in set(taken) - used:
            await self._database.drop_collection(name)

    async def _collections(self, view: str) -> list[str]:
        """All collections that are or were the view."""
        return await self._database.list_collection_names(filter={"name": {"$regex": f"^{view}(_[0-9]+)?$"}})

    async def settle(self) -> None:
        """Nothing: positions are written with the views."""

    async def apply(self, places: Sequence[ViewPosition], new: int, batch: Sequence[Logged]) -> list[ViewPosition]:
        """Writes what the batch has for these places, which are at one position, and moves them to `new`.

        All of it or nothing, but where it deletes large conversations: then the views may stop in front of a deletion.
        Says where the views stand then. Raises PositionMoved when a view was elsewhere (or may be: the commit's answer was lost),
        UnreadableEvent, ViewDiverged, and PyMongoError.
        """
        partitions = {place.partition for place in places}
        batch = [logged for logged in batch if partition_of(logged.conversation_id) in partitions]
        while (index := await self._too_many(places, batch)) is not None:
            if index:
                places = await self._commit(places, batch[index - 1].position, batch[:index])
            batch = batch[index:]
            await self._remove(places, batch[0])
        return await self._commit(places, new, batch)

    async def _too_many(self, places: Sequence[ViewPosition], batch: Sequence[Logged]) -> int | None:
        """Where in the batch the deletion is with which more than REMOVED_AT_ONCE documents would go."""
        found = 0
        for index, logged in enumerate(batch):
            if is_deletion(logged):
                for place in _shows_many_of(logged, places):
                    collection = self._database[place.collection]
                    found += await collection.count_documents(_documents_of(logged), limit=REMOVED_AT_ONCE + 1)
                if found > REMOVED_AT_ONCE:
                    return index
        return None

    async def _remove(self, places: Sequence[ViewPosition], deleted: Logged) -> None:
        """Removes a conversation's documents step by step. Its deletion is the next event of the views, where they stand.

        So that no event in between misses them, whoever goes on from here.
        """
        for place in _shows_many_of(deleted, places):
            while idents := await self.some(place.collection, _documents_of(deleted), REMOVED_AT_ONCE):
                await self._remove_some(place, idents)

    async def _commit(self, places: Sequence[ViewPosition], new: int, batch: Sequence[Logged]) -> list[ViewPosition]:
        tallies = _tallies(places, batch)
        gone = {ident for place in places for ident in released(batch, place.parked)}
        # What a deleted conversation came to is still to be counted: totals keep it parked.
        steps = [step for some, let_go in _by_release(places, gone) for step in advances(some, new, let_go)]
        statements = [it for view, collection, tally in tallies for it in _statements(view, collection, tally)]
        moved: list[ViewPosition] = []
        with _fenced([place.view for place in places], places[0].position):
            async with together(self._database, self._own_session()) as send:
                answers = await send([*map(_moving, steps), *(it.command for it in statements)])
                for step, answer in zip(steps, answers[: len(steps)], strict=True):
                    moved += step.done(answer.read()["n"])
                for statement, answer in zip(statements, answers[len(steps) :], strict=True):
                    statement.check(answer.read)
        return moved

    async def some(self, collection: str, where: Document, limit: int) -> list[str]:
        """The `_id`s of some documents."""
        return [found["_id"] async for found in self._database[collection].find(where, {"_id": 1}).limit(limit)]

    async def _remove_some(self, place: ViewPosition, idents: Sequence[str]) -> None:
        """Removes these documents of a view. Raises PositionMoved when it has left its place."""
        async with self.transaction((place.view,), place.position) as session:
            await self._positions.hold(place, session)
            await self._database[place.collection].delete_many({"_id": {"$in": idents}}, session=session)

    @asynccontextmanager
    async def transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
        """A transaction of views that stand at `position`. Raises PositionMoved when it meets another one."""
        with _fenced(views, position):
            async with await self._own_session().start_transaction(
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern(w="majority", j=True),
                read_preference=ReadPreference.PRIMARY,
            ):
                yield self._own_session()

    async def write(self, view: str, name: str, tally: Tally, session: AsyncClientSession) -> None:
        """Writes what a batch comes to in one view, to the collection of that name. Raises ViewDiverged and PyMongoError."""
        for statement in _statements(view, name, tally):
            document = await self._database.command(statement.command, session=session)
            statement.check(Answer(document).read)


class Statement(Struct, frozen=True):
    """A command to a view's collection, as MongoDB takes it; `changes` so many documents that must be there."""

    view: str
    command: Document
    changes: int | None = None

    def check(self, read: Callable[[], Document]) -> None:
        """Raises ViewDiverged where its answer, once it is read, says that documents are missing, or there already; and what reading raises."""
        try:
            answer = read()
        except BulkWriteError as error:
            codes = {failed["code"] for failed in error.details.get("writeErrors", ())}
            if _DUPLICATE_KEY in codes:
                raise ViewDiverged(self.view, "a document that comes in is there already") from error
            raise
        if self.changes is not None and answer["n"] != self.changes:
            raise ViewDiverged(self.view, f"{self.changes - answer['n']} documents that change are not there")


def _statements(view: str, collection: str, tally: Tally) -> Iterator[Statement]:
    """What writes a tally, in order."""
    if tally.updates:
        updates = [{"q": {"_id": ident}, "u": _operators(change)} for ident, change in tally.updates.items()]
        yield Statement(view, {"update": collection, "updates": updates, "ordered": False}, changes=len(updates))
    if tally.removed:
        gone: list[Document] = [{"tenant": tenant, "conversation_id": ident} for tenant, ident in tally.removed]
        if view == "conversations":
            gone = [{"_id": {"$in": [document_key(tenant, ident) for tenant, ident in tally.removed]}}]
        deletes = [{"q": which, "limit": 0} for which in gone]
        yield Statement(view, {"delete": collection, "deletes": deletes, "ordered": False})
    if tally.sums:
        sums = [
            {
                "q": {"_id": ident},
                "u": {"$setOnInsert": it.document, "$inc": it.add, "$max": {"position": it.position}},
                "upsert": True,
            }
            for ident, it in tally.sums.items()
        ]
        yield Statement(view, {"update": collection, "updates": sums, "ordered": False})
    if tally.inserts:
        yield Statement(view, {"insert": collection, "documents": [*tally.inserts.values()], "ordered": False})


def _moving(step: Advance) -> Document:
    """The statement that moves places."""
    return {"update": POSITIONS_COLLECTION, "updates": [{"q": step.where, "u": step.change, "multi": True}]}


@contextmanager
def _fenced(views: Collection[str], position: int) -> Iterator[None]:
    """Raises PositionMoved where a transaction of views that stand at `position` meets another one, or nobody knows whether it was committed."""
    try:
        yield
    except OperationFailure as error:
        if any(map(error.has_error_label, _TRANSIENT)):
            raise PositionMoved(views, position) from error
        raise


async def make_indexes(database: Database, view: str, collection: str) -> None:
    """Makes those indexes of a view that the collection has not, and with them the collection."""
    await database[collection].create_indexes([IndexModel(list(index)) for index in INDEXES[view]])


def unused(view: str, collections: Iterable[str]) -> str:
    """A name for a collection of the view that is none of these, and later than all of them: `items`, `items_2`, …"""
    numbers = [int(name.rpartition("_")[2]) if "_" in name else 1 for name in collections]
    return f"{view}_{1 + max(numbers)}" if numbers else view


def _tallies(places: Sequence[ViewPosition], batch: Sequence[Logged]) -> list[tuple[str, str, Tally]]:
    """What the batch comes to in each collection of these places. Raises UnreadableEvent."""
    shown: defaultdict[tuple[str, str], dict[int, ViewPosition]] = defaultdict(dict)
    by_partition: defaultdict[int, list[ViewPosition]] = defaultdict(list)
    for place in places:
        shown[place.base_view, place.collection][place.partition] = place
        by_partition[place.partition].append(place)
    tallies = [(view, collection, Tally(), its) for (view, collection), its in shown.items()]
    for logged in batch:
        partition = partition_of(logged.conversation_id)
        if not any(_shows(place, logged) for place in by_partition[partition]):
            continue
        for write in event_writes(logged):
            for view, _, tally, its in tallies:
                if view == write.view and (there := its.get(partition)) is not None and _shows(there, logged):
                    tally.take(write)
    return [(view, collection, tally) for view, collection, tally, _ in tallies]


def _by_release(
    places: Sequence[ViewPosition], gone: Collection[str]
) -> list[tuple[list[ViewPosition], Collection[str]]]:
    """The places that let go of deleted conversations, and those that do not."""
    if not gone:
        return [([*places], ())]
    lets_go: list[ViewPosition] = [place for place in places if place.base_view != USAGE]
    keeps = [place for place in places if place.base_view == USAGE]
    return [(some, let_go) for some, let_go in ((lets_go, gone), (keeps, ())) if some]


def _shows(place: ViewPosition, logged: Logged) -> bool:
    return logged.conversation_id not in place.parked or is_deletion(logged)


def _shows_many_of(deleted: Logged, places: Sequence[ViewPosition]) -> list[ViewPosition]:
    """The places with any number of documents of the conversation."""
    partition = partition_of(deleted.conversation_id)
    return [place for place in places if place.base_view in _MANY and place.partition == partition]


def _documents_of(deleted: Logged) -> Document:
    return {"tenant": deleted.tenant, "conversation_id": deleted.conversation_id}


def _operators(change: Change) -> dict[str, Any]:
    operators: dict[str, Any] = {}
    if change.set:
        operators["$set"] = change.set
    if change.add:
        operators["$inc"] = change.add
    return operators
