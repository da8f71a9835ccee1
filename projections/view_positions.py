"""How far each view has come: `projections` in MongoDB. Whoever moves a view forward moves this too, in the same transaction.

One document for each bucket of a view (`buckets.py`), since several projectors may share the work:

    {_id: "items/3", view: "items", bucket: 3, collection, state, position, target, lease, epoch, repairs,
     parked: {conversation_id: {tenant, position, version, topic, error, message, at, repair, done}}}

`position` is the last event of its bucket that a view shows; it moves only from the {epoch, position} its mover has read, so
that of two projectors one loses and writes nothing. `lease` is the number under which a projector holds the bucket: a newer one
raises the epoch, and with that the older one's writes fail. Whatever else than an advance changes a place raises its epoch too, so that
every mover reads anew. A view that begins anew is `rebuilding` up to `target`, the head of the log at that moment; from then on
it is `live`. `parked` are the conversations that the view leaves out (`parking.py`); `repairs` counts those that came back, for
those who read meanwhile. A view's other generation (`generations.py`) has such places too.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace
from pymongo import UpdateMany, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from infrastructure.stores.mongodb import Database, Document
from projections.views.catalog import POSITIONS_COLLECTION, VERSIONS
from projections.views.partitions import ALL_PARTITIONS, partition_of, position_key
from projections.views.view_position import BUILD_SUFFIX, Parked, ViewPosition, ViewStatus, position_from, view_statuses

log = structlog.get_logger(__name__)


class PositionMoved(Exception):
    """The view is no longer where the writer read it: another projector moved it, or it was reset. Nothing was written."""

    def __init__(self, views: Iterable[str], position: int) -> None:
        super().__init__(f"{', '.join(sorted(set(views)))} left position {position} meanwhile")


class ViewPositions:
    """The places of the views, as MongoDB has them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[POSITIONS_COLLECTION]
        # Where a view's writes may safely come again, its position need not wait for the journal.
        self._lax = self._collection.with_options(write_concern=WriteConcern(w=1))

    async def prepare(self) -> None:
        """Makes the collection, where there is none, in small pages.

        These few documents change a hundred times a second. MongoDB keeps five minutes of their history, and moves it out of a page
        that has grown too large; from pages of its usual size (10 MB) that takes 200 ms, in which nobody writes there.
        """
        if POSITIONS_COLLECTION in await self._database.list_collection_names(filter={"name": POSITIONS_COLLECTION}):
            return
        small_pages = {"wiredTiger": {"configString": "memory_page_max=512KB"}}
        try:
            await self._database.create_collection(POSITIONS_COLLECTION, storageEngine=small_pages, check_exists=False)
        except OperationFailure as error:
            # Another was first; or it is a server without such options, and makes the collection at the first write.
            log.debug("positions_not_made", code=error.code)

    async def load(self, views: Collection[str]) -> list[ViewPosition]:
        """The places of those of the views that have any."""
        return [position_from(it) async for it in self._collection.find({"view": {"$in": list(views)}})]

    async def statuses(self, views: Collection[str]) -> dict[str, ViewStatus]:
        """Where those of the views stand that have a place."""
        return view_statuses(await self.load(views))

    async def load_to_move(self, views: Collection[str]) -> list[ViewPosition]:
        """As `load`, and with them their other generations where these are to be brought forward."""
        others = [f"{view}{BUILD_SUFFIX}" for view in views]
        moving = {"view": {"$in": others}, "state": {"$in": ["rebuilding", "live"]}}
        which = {"$or": [{"view": {"$in": list(views)}}, moving]}
        return [position_from(it) async for it in self._collection.find(which)]

    async def enter(self, views: Collection[str], leases: Mapping[int, int]) -> None:
        """Notes under which lease each bucket is held from now on, where that is newer: who held it before is fenced."""
        held = [*views, *(f"{view}{BUILD_SUFFIX}" for view in views)]
        entering = [
            UpdateMany(
                {"view": {"$in": held}, "bucket": partition, "lease": {"$lt": lease}},
                {"$set": {"lease": lease}, "$inc": {"epoch": 1}},
            )
            for partition, lease in leases.items()
        ]
        await self._collection.bulk_write(entering, ordered=False)

    async def forget(self, view: str) -> None:
        """There is no such place any more: of an other generation that is of no use."""
        await self._collection.delete_many({"view": view})

    async def begin_anew(
        self,
        view: str,
        collection: str,
        target: int,
        session: AsyncClientSession,
        *,
        only_first: bool = False,
        only_ahead_of: int | None = None,
    ) -> bool:
        """As part of the session's transaction: the view stands before the first event, in this collection, nothing is parked.

        Its other generation is forgotten. Nothing is changed, and False returned, with `only_first` where it has places, and with
        `only_ahead_of` where it shows nothing behind that position.
        """
        places = [it["position"] async for it in self._collection.find({"view": view}, session=session)]
        there = len(places)
        if there and (only_first or (only_ahead_of is not None and max(places) <= only_ahead_of)):
            return False
        begun: Document = {
            "collection": collection,
            "state": "live" if target == 0 else "rebuilding",
            "position": 0,
            "target": target,
            "version": VERSIONS.get(view, 1),
        }
        await self._collection.delete_many({"view": f"{view}{BUILD_SUFFIX}"}, session=session)
        if there:
            change = {"$set": begun, "$unset": {"parked": ""}, "$inc": {"epoch": 1}}
            await self._collection.update_many({"view": view}, change, session=session)
            return True
        first = {"view": view, "epoch": 0, "lease": 0, **begun}
        every = [{"_id": position_key(view, partition), "bucket": partition, **first} for partition in ALL_PARTITIONS]
        await self._collection.insert_many(every, session=session)
        return True

    async def advance(
        self,
        places: Sequence[ViewPosition],
        new: int,
        released: Collection[str] = (),
        session: AsyncClientSession | None = None,
    ) -> list[ViewPosition]:
        """Moves all of the places, which are at one position, to `new`, and says where they stand then.

        `released` are no longer parked: they were deleted. Raises PositionMoved when one is elsewhere. With a session, as part of its
        transaction. Without, the move may be forgotten again when MongoDB fails over.
        """
        collection = self._collection if session else self._lax
        moved: list[ViewPosition] = []
        for advance in advances(places, new, released):
            found = await collection.update_many(advance.where, advance.change, session=session)
            moved += advance.done(found.matched_count)
        return moved

    async def hold(self, place: ViewPosition, session: AsyncClientSession) -> None:
        """Makes the session's transaction fail if the view leaves its place before it commits. Raises PositionMoved."""
        found = await self._collection.update_one(_at([place]), {"$inc": {"held": 1}}, session=session)
        if not found.matched_count:
            raise PositionMoved((place.view,), place.position)

    async def park(self, place: ViewPosition, conversation_id: str, parked: Parked) -> ViewPosition:
        """From now on the view leaves this conversation out; says how it stands then. Raises PositionMoved."""
        entry = {_parked(conversation_id): msgspec.to_builtins(parked)}
        found = await self._collection.update_one(_at([place]), {"$set": entry, "$inc": {"epoch": 1}})
        if not found.matched_count:
            raise PositionMoved((place.view,), place.position)
        return replace(place, epoch=place.epoch + 1, parked={**place.parked, conversation_id: parked})

    async def claim(self, view: str, conversation_id: str, parked: Parked) -> bool:
        """Parks a conversation for the repair that `parked` names, or hands a parked one over to it, as it is.

        It is then parked behind where the view stands. False where no projector has begun with the view.
        """
        name = _parked(conversation_id)
        new = {"$mergeObjects": [{"$literal": msgspec.to_builtins(parked)}, {"position": {"$add": ["$position", 1]}}]}
        claimed = {"$mergeObjects": [{"$ifNull": [f"${name}", new]}, {"repair": parked.repair, "done": 0}]}
        found = await self._collection.update_one(
            _of(view, conversation_id), [{"$set": {name: claimed, "epoch": _NEXT_EPOCH}}]
        )
        return bool(found.matched_count)

    async def claimed(
        self,
        view: str,
        conversation_id: str,
        repair: str,
        session: AsyncClientSession,
        *,
        done: int | None = None,
        counted: int | None = None,
        ends: bool = False,
    ) -> ViewPosition | None:
        """Where the view stands, and will until the session's transaction commits; None when the claim is lost.

        With the commit the repair has come to the version `done`, and the view adds up to the position `counted`; with `ends`, the
        conversation is parked no longer.
        """
        name = _parked(conversation_id)
        change: Document = {"$inc": {"held": 1}}
        if ends:
            change = {"$inc": {"epoch": 1, "repairs": 1}, "$unset": {name: ""}}
        elif done is not None:
            change = {"$set": {f"{name}.done": done}}
            if counted is not None:
                change["$set"][f"{name}.position"] = counted + 1
        document = await self._collection.find_one_and_update(
            {**_of(view, conversation_id), f"{name}.repair": repair}, change, session=session
        )
        return None if document is None else position_from(document)

    async def explain(self, view: str, conversation_id: str, repair: str, parked: Parked) -> None:
        """Says anew why a conversation is parked that a repair had claimed, which ends with that."""
        name = _parked(conversation_id)
        entry = {name: msgspec.to_builtins(parked)}
        await self._collection.update_one({**_of(view, conversation_id), f"{name}.repair": repair}, {"$set": entry})


class Advance(Struct, frozen=True):
    """A step of places that are changed alike: documents of POSITIONS_COLLECTION, what is changed in them, and where they stand `after` it."""

    before: Sequence[ViewPosition]
    after: list[ViewPosition]
    where: Document
    change: Document

    def done(self, moved: int) -> list[ViewPosition]:
        """Where the places stand when so many of their documents were found. Raises PositionMoved when one was elsewhere."""
        if moved != len(self.before):
            raise PositionMoved((place.view for place in self.before), self.before[0].position)
        return self.after


def advances(places: Sequence[ViewPosition], new: int, released: Collection[str] = ()) -> list[Advance]:
    """The steps that move these places, which are at one position, to `new`. `released` are no longer parked."""
    by_arrival: defaultdict[bool, list[tuple[ViewPosition, ViewPosition]]] = defaultdict(list)
    for place in places:
        moved = place.advanced(new, released)
        by_arrival[place.state != moved.state].append((place, moved))
    found: list[Advance] = []
    for arrives, some in by_arrival.items():
        change: Document = {"$set": {"position": new, **({"state": "live"} if arrives else {})}}
        if released:
            change |= {"$inc": {"epoch": 1}, "$unset": {_parked(ident): "" for ident in released}}
        before = [place for place, _ in some]
        found.append(Advance(before, [moved for _, moved in some], _at(before), change))
    return found


_NEXT_EPOCH: Any = {"$add": ["$epoch", 1]}


def _of(view: str, conversation_id: str) -> Document:
    return {"_id": position_key(view, partition_of(conversation_id))}


def _at(places: Iterable[ViewPosition]) -> Document:
    """The documents of the places that have not moved."""
    alike: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for place in places:
        alike[place.position, place.epoch].append(place.key)
    return {
        "$or": [
            {"_id": {"$in": idents}, "position": position, "epoch": epoch}
            for (position, epoch), idents in alike.items()
        ]
    }


def _parked(conversation_id: str) -> str:
    return f"parked.{conversation_id}"
