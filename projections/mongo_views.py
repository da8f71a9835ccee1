"""The views in MongoDB. A batch and the new positions are one transaction, unless the batch has a large deletion."""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

from bson import Binary
from pymongo import ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from infrastructure.event_log.feed import Batch
from infrastructure.event_log.incarnation import LogPosition
from infrastructure.event_log.recorded import Logged
from infrastructure.stores.mongo_pipeline import Answer, pipelined_transaction
from infrastructure.stores.mongodb import Database
from projections.coalesce import ViewBatch, coalesce_for
from projections.mongo_statements import advance_command, batch_statements
from projections.parking import deleted_parked
from projections.position_advance import PositionMoved, advances
from projections.view_indexes import create_indexes
from projections.view_positions import ViewPositions
from projections.views.catalog import MONGO_VIEWS, USAGE
from projections.views.event_writes import is_deletion
from projections.views.partitions import partition_of
from projections.views.view_position import BUILD_SUFFIX, ViewPosition
from projections.views.writes import Document

MAX_REMOVED = 500
"""A transaction removes at most this many documents from `_LARGE_VIEWS`. A transaction has a time limit, and must fit into
MongoDB's cache.
"""

_LARGE_VIEWS: frozenset[str] = frozenset({"items", "responses", "search", "feedback"})
"""The views in which a conversation can have any number of documents."""

_CONFLICT_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult")


class MongoViews:
    views: tuple[str, ...] = MONGO_VIEWS
    min_batch_seconds = 0.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = ViewPositions(database)
        self._opened: AsyncClientSession | None = None

    @property
    def session_id(self) -> UUID:
        """Another projector can end this session with `end_sessions`."""
        session_id: UUID = self._session().session_id["id"].as_uuid()
        return session_id

    def _session(self) -> AsyncClientSession:
        if self._opened is None:
            self._opened = self._database.client.start_session()
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.end_session()
            self._opened = None

    async def end_sessions(self, holders: Sequence[UUID]) -> None:
        sessions = [{"id": Binary.from_uuid(holder)} for holder in holders]
        await self._database.client.admin.command("killSessions", sessions)

    async def prepare(self) -> None:
        await self._positions.prepare()

    async def start_over(
        self, view: str, target: int, *, only_incomplete: bool = False, only_from: ViewPosition | None = None
    ) -> None:
        """Gives the view a new, empty collection. Drops the former collection and the view's second build. Raises PositionMoved.

        `only_incomplete`, `only_from`: as in ViewPositions.start_over.
        """
        used = await self._used_collections(view)
        names = await self._database.list_collection_names(filter={"name": {"$regex": f"^{view}(_[0-9]+)?$"}})
        occupied = [name for name in names if name in used or await self._database[name].find_one({}, {"_id": 1})]
        collection = unused_name(view, occupied)
        await create_indexes(self._database, view, collection)
        async with self.transaction((view,), 0) as session:
            if not await self._positions.start_over(
                view, collection, target, session, only_incomplete=only_incomplete, only_from=only_from
            ):
                return
        # Another projector may have started the view over meanwhile. So only collections that existed before and are
        # unused now are dropped.
        for name in set(occupied) - await self._used_collections(view):
            await self._database.drop_collection(name)

    async def _used_collections(self, view: str) -> set[str]:
        return {position.collection for position in await self._positions.load((view, f"{view}{BUILD_SUFFIX}"))}

    async def flush(self) -> None:
        """Does nothing, because each transaction writes the positions too."""

    async def apply(self, view_positions: Sequence[ViewPosition], batch: Batch) -> list[ViewPosition]:
        """Returns the new positions. All positions must be at the same event.

        Events before a large deletion are committed first. Then the deleted documents are removed in steps. Raises
        UnreadableEvent, ViewDiverged and PyMongoError. Raises PositionMoved also if MongoDB does not know the outcome
        of the commit.
        """
        partitions = {view_position.partition for view_position in view_positions}
        events = [logged for logged in batch.events if partition_of(logged.conversation_id) in partitions]
        while (index := await self._large_deletion(view_positions, events)) is not None:
            if index:
                view_positions = await self._commit(view_positions, events[index - 1].log_position, events[:index])
            events = events[index:]
            await self._remove_in_steps(view_positions, events[0])
        return await self._commit(view_positions, batch.events[-1].log_position, events)

    async def _large_deletion(self, view_positions: Sequence[ViewPosition], batch: Sequence[Logged]) -> int | None:
        """The index of the first deletion with which the batch would remove more than MAX_REMOVED documents."""
        count = 0
        for index, logged in enumerate(batch):
            if is_deletion(logged):
                for view_position in _large_views_of(logged, view_positions):
                    collection = self._database[view_position.collection]
                    count += await collection.count_documents(_documents_of(logged), limit=MAX_REMOVED + 1)
                if count > MAX_REMOVED:
                    return index
        return None

    async def _remove_in_steps(self, view_positions: Sequence[ViewPosition], deletion: Logged) -> None:
        """All events before the deletion are already written. So no event still needs the removed documents."""
        for view_position in _large_views_of(deletion, view_positions):
            while keys := await self.some_keys(view_position.collection, _documents_of(deletion), MAX_REMOVED):
                async with self.transaction((view_position.view,), view_position.position) as session:
                    await self._positions.lock(view_position, session)
                    collection = self._database[view_position.collection]
                    await collection.delete_many({"_id": {"$in": keys}}, session=session)

    async def _commit(
        self, view_positions: Sequence[ViewPosition], new: LogPosition, batch: Sequence[Logged]
    ) -> list[ViewPosition]:
        deleted = {
            conversation for position in view_positions for conversation in deleted_parked(batch, position.parked)
        }
        updates = [
            update
            for group, group_released in _by_release(view_positions, deleted)
            for update in advances(group, new, group_released)
        ]
        statements = [
            statement
            for view, collection, view_batch in coalesce_for(view_positions, batch)
            for statement in batch_statements(view, collection, view_batch)
        ]
        after: list[ViewPosition] = []
        with _conflicts([position.view for position in view_positions], view_positions[0].position):
            async with pipelined_transaction(self._database, self._session()) as send:
                answers = await send([*map(advance_command, updates), *(each.command for each in statements)])
                for update, answer in zip(updates, answers[: len(updates)], strict=True):
                    after += update.result(answer.read()["n"])
                for statement, answer in zip(statements, answers[len(updates) :], strict=True):
                    statement.check(answer.read)
        return after

    async def some_keys(self, collection: str, where: Document, limit: int) -> list[str]:
        documents = self._database[collection].find(where, {"_id": 1}).limit(limit)
        return [document["_id"] async for document in documents]

    @asynccontextmanager
    async def transaction(self, views: Collection[str], position: int) -> AsyncIterator[AsyncClientSession]:
        """Raises PositionMoved if another transaction conflicts, or if MongoDB does not know the outcome."""
        with _conflicts(views, position):
            async with await self._session().start_transaction(
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern(w="majority", j=True),
                read_preference=ReadPreference.PRIMARY,
            ):
                yield self._session()

    async def write(self, view: str, collection: str, batch: ViewBatch, session: AsyncClientSession) -> None:
        """Raises ViewDiverged and PyMongoError."""
        for statement in batch_statements(view, collection, batch):
            document = await self._database.command(statement.command, session=session)
            statement.check(Answer(document).read)


@contextmanager
def _conflicts(views: Collection[str], position: int) -> Iterator[None]:
    try:
        yield
    except OperationFailure as error:
        if any(map(error.has_error_label, _CONFLICT_LABELS)):
            raise PositionMoved(views, position) from error
        raise


def unused_name(view: str, collections: Iterable[str]) -> str:
    """A name such as `items` or `items_2`, with the number after the highest number in `collections`."""
    numbers = [int(name.rpartition("_")[2]) if "_" in name else 1 for name in collections]
    return f"{view}_{1 + max(numbers)}" if numbers else view


def _by_release(
    view_positions: Sequence[ViewPosition], deleted: Collection[str]
) -> list[tuple[list[ViewPosition], Collection[str]]]:
    """Returns (positions, the deleted conversations that are no longer parked in these positions).

    In `usage`, deleted conversations stay parked, because usage before the deletion still has to be counted.
    """
    if not deleted:
        return [([*view_positions], ())]
    others = [position for position in view_positions if position.base_view != USAGE]
    totals = [position for position in view_positions if position.base_view == USAGE]
    groups: list[tuple[list[ViewPosition], Collection[str]]] = [(others, deleted), (totals, ())]
    return [(group, group_released) for group, group_released in groups if group]


def _large_views_of(deletion: Logged, view_positions: Sequence[ViewPosition]) -> list[ViewPosition]:
    partition = partition_of(deletion.conversation_id)
    return [
        position
        for position in view_positions
        if position.base_view in _LARGE_VIEWS and position.partition == partition
    ]


def _documents_of(deletion: Logged) -> Document:
    return {"tenant": deletion.tenant, "conversation_id": deletion.conversation_id}
