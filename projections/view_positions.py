"""Reads and changes the view positions in MongoDB.

A write into a view in MongoDB fails unless `epoch` and `position` are still as they were read. So if two projectors
write the same batch, one projector writes nothing. When a view starts over, is swapped, or parks or unparks
a conversation, its `epoch` is raised, and writers must load the position again. A newer `lease` also raises `epoch`, so
the former holder can no longer write.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import structlog
from msgspec.structs import replace
from pymongo import UpdateMany, UpdateOne, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from infrastructure.event_log.incarnation import LogCheck, LogPosition
from infrastructure.event_log.migrate import DataIsNewer
from infrastructure.stores.mongodb import Database, Document
from projections.position_advance import PositionMoved, advances, fields_of, parked_field, unmoved
from projections.views.catalog import POSITIONS_COLLECTION, VERSIONS
from projections.views.partitions import ALL_PARTITIONS, PARTITIONS, position_key
from projections.views.view_position import (
    BUILD_SUFFIX,
    Parked,
    ViewPosition,
    ViewStatus,
    missing_positions,
    no_position,
    position_from,
    view_statuses,
)

log = structlog.get_logger(__name__)


def refuse_newer(versions: Iterable[tuple[str, int]]) -> None:
    """Raises DataIsNewer if newer code built one of these (view, version)."""
    for view, version in versions:
        if version > (own_version := VERSIONS.get(view, 1)):
            raise DataIsNewer("the view", f"{view} in version {own_version}", f"{view} in version {version}")


class ViewPositions:
    """The methods raise PyMongoError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[POSITIONS_COLLECTION]
        # Positions of views whose batches can be written twice need not wait for the journal.
        self._unjournaled = self._collection.with_options(write_concern=WriteConcern(w=1))

    async def prepare(self) -> None:
        """Creates the collection with small pages.

        Its few documents change hundreds of times a second, and MongoDB keeps five minutes of their history. With pages
        of 10 MB, moving the history out of a page blocks every write to the page for 200 ms.
        """
        if POSITIONS_COLLECTION in await self._database.list_collection_names(filter={"name": POSITIONS_COLLECTION}):
            return
        small_pages = {"wiredTiger": {"configString": "memory_page_max=512KB"}}
        try:
            await self._database.create_collection(POSITIONS_COLLECTION, storageEngine=small_pages, check_exists=False)
        except OperationFailure as error:
            # Another projector created it first, or this server has no such option and the first write creates it.
            log.debug("positions_collection_not_created", code=error.code)

    async def load(self, views: Collection[str]) -> list[ViewPosition]:
        return [position_from(document) async for document in self._collection.find({"view": {"$in": list(views)}})]

    async def statuses(self, views: Collection[str]) -> dict[str, ViewStatus]:
        """A view is `absent` if one of its positions is missing. A view without positions is left out."""
        loaded = await self.load(views)
        missing = [no_position(view, partition) for view, partition in missing_positions(loaded)]
        return view_statuses([*loaded, *missing])

    async def load_to_advance(self, views: Collection[str]) -> list[ViewPosition]:
        """Includes second builds that projectors advance. Raises DataIsNewer."""
        builds = [f"{view}{BUILD_SUFFIX}" for view in views]
        advancing = {"view": {"$in": builds}, "state": {"$in": ["rebuilding", "live"]}}
        where = {"$or": [{"view": {"$in": list(views)}}, advancing]}
        positions = [position_from(document) async for document in self._collection.find(where)]
        refuse_newer((position.base_view, position.version) for position in positions)
        return positions

    async def register_leases(self, views: Collection[str], leases: Mapping[int, int]) -> None:
        """Stores newer leases. From then on the former holder cannot write."""
        views_and_builds = [*views, *(f"{view}{BUILD_SUFFIX}" for view in views)]
        updates = [
            UpdateMany(
                {"view": {"$in": views_and_builds}, "bucket": partition, "lease": {"$lt": lease}},
                {"$set": {"lease": lease}, "$inc": {"epoch": 1}},
            )
            for partition, lease in leases.items()
        ]
        await self._collection.bulk_write(updates, ordered=False)

    async def remove(self, view_position: ViewPosition) -> None:
        """Removes all positions of the same view and incarnation."""
        incarnations = (
            [view_position.incarnation] if view_position.incarnation else ["", None]
        )  # None: older code did not write the field
        await self._collection.delete_many({"view": view_position.view, "incarnation": {"$in": incarnations}})

    async def confirm(self, view_position: ViewPosition, check: LogCheck, last: int) -> None:
        """Records that the view shows the log that `check` read. Does nothing if the position has changed.

        `last`: the log's last position. A target after `last` becomes `last`.
        """
        target = min(view_position.target, last)
        state = "live" if view_position.position >= target else view_position.state
        position = view_position.position
        log_position = LogPosition(position, check.chain_hashes.get(position, ""), check.incarnation)
        change = {"$set": {**fields_of(log_position), "target": target, "state": state}}
        await self._collection.update_one(unmoved([view_position]), change)

    async def start_over(
        self,
        view: str,
        collection: str,
        target: int,
        session: AsyncClientSession,
        *,
        only_incomplete: bool = False,
        only_from: ViewPosition | None = None,
    ) -> bool:
        """Moves the view to before the first event, with this collection and nothing parked.

        Removes the positions of its second build. Returns False if nothing was changed. `only_incomplete`: changes
        nothing if no position is missing. `only_from`: changes nothing if this position has changed since it was read.
        """
        existing = [position_from(each) async for each in self._collection.find({"view": view}, session=session)]
        if only_incomplete and len(existing) == PARTITIONS:
            return False
        if only_from is not None and not any(map(only_from.is_same, existing)):
            return False
        start: Document = {
            "view": view,
            "collection": collection,
            "state": "live" if target == 0 else "rebuilding",
            **fields_of(LogPosition()),
            "target": target,
            "version": VERSIONS.get(view, 1),
            "epoch": 1 + max((position.epoch for position in existing), default=-1),
        }
        await self._collection.delete_many({"view": f"{view}{BUILD_SUFFIX}"}, session=session)
        changes = [
            UpdateOne(
                {"_id": position_key(view, partition)},
                {"$set": start, "$unset": {"parked": ""}, "$setOnInsert": {"bucket": partition, "lease": 0}},
                upsert=True,
            )
            for partition in ALL_PARTITIONS
        ]
        await self._collection.bulk_write(changes, session=session)
        return True

    async def advance(
        self,
        view_positions: Sequence[ViewPosition],
        new: LogPosition,
        released: Collection[str] = (),
        session: AsyncClientSession | None = None,
    ) -> list[ViewPosition]:
        """Advances these positions, which must all be at the same event. The `released` conversations are no longer
        parked.

        Raises PositionMoved. Without a session, the advance can be lost when MongoDB fails over.
        """
        collection = self._collection if session else self._unjournaled
        after: list[ViewPosition] = []
        for advance in advances(view_positions, new, released):
            result = await collection.update_many(advance.where, advance.change, session=session)
            after += advance.result(result.matched_count)
        return after

    async def lock(self, view_position: ViewPosition, session: AsyncClientSession) -> None:
        """Makes the session's transaction fail if the position changes before the commit. Raises PositionMoved."""
        result = await self._collection.update_one(unmoved([view_position]), {"$inc": {"held": 1}}, session=session)
        if not result.matched_count:
            raise PositionMoved((view_position.view,), view_position.position)

    async def park(self, view_position: ViewPosition, conversation_id: str, parked: Parked) -> ViewPosition:
        """Raises PositionMoved."""
        change = {"$set": {parked_field(conversation_id): msgspec.to_builtins(parked)}, "$inc": {"epoch": 1}}
        result = await self._collection.update_one(unmoved([view_position]), change)
        if not result.matched_count:
            raise PositionMoved((view_position.view,), view_position.position)
        entries = {**view_position.parked, conversation_id: parked}
        return replace(view_position, epoch=view_position.epoch + 1, parked=entries)
