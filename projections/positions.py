"""How far each view has come: `projections` in MongoDB, one document a view. Whoever moves a view forward moves this too.

    {_id: view, collection, position, state, target, epoch, repairs, parked: {conversation_id: {tenant, position, version, topic, error,
    message, at, repair, done}}}

`position` is the last event a view shows; it moves only from the {epoch, position} its mover has read, so that of two
projectors one loses and writes nothing. `state` tells a view's life:

    (absent) -> emptying (position -1) -> rebuilding (0 …) -> live
    any      -> emptying                                      by `reset`

An emptying view is nobody's to write to; `target` is the head of the log at that moment, where it is live again. `parked`
are the conversations that the view leaves out (see `parking.py`). Whatever else than an advance changes a view raises its
`epoch`, so that every mover reads anew; `repairs` counts the conversations that came back, for those who read meanwhile.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from pymongo import WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from infrastructure.mongodb import Database, Document
from projections.parking import Parked
from projections.read_models import POSITIONS, VERSIONS

OTHER = "+"
"""Behind a view's name: its other generation (`generations.py`)."""

BEFORE_ALL = -1
"""The position of a view that is being emptied: no event's, and nobody's to move from."""


class Place(Struct, frozen=True):
    """Where a view stands, and the conversations it leaves out."""

    view: str
    position: int
    state: Literal["emptying", "rebuilding", "live"]
    target: int
    epoch: int = 0
    parked: Mapping[str, Parked] = {}
    collection: str = ""

    @property
    def shows(self) -> str:
        """What its documents are: the view, or the view that it is another generation of."""
        return self.view.removesuffix(OTHER)

    def moved(self, position: int, released: Collection[str] = ()) -> "Place":
        """Where it stands after an advance to `position`, with which these conversations were let go."""
        is_there = self.state == "live" or position >= self.target
        return replace(
            self,
            position=position,
            state="live" if is_there else "rebuilding",
            epoch=self.epoch + bool(released),
            parked={ident: parked for ident, parked in self.parked.items() if ident not in released},
        )


class Fenced(Exception):
    """The view is no longer where the writer read it: another projector moved it, or it was reset. Nothing was written."""

    def __init__(self, views: Iterable[str], position: int) -> None:
        super().__init__(f"{', '.join(sorted(views))} left position {position} meanwhile")


def place_of(document: Document) -> Place:
    """The place that a document of `projections` says."""
    return Place(
        document["_id"],
        document["position"],
        document["state"],
        document["target"],
        document.get("epoch", 0),
        msgspec.convert(document.get("parked", {}), dict[str, Parked]),
        document.get("collection") or document["_id"],
    )


class Positions:
    """The places of the views, as MongoDB has them."""

    def __init__(self, database: Database) -> None:
        self._collection = database[POSITIONS]
        # Where a view's writes may safely come again, its position need not wait for the journal.
        self._lax = self._collection.with_options(write_concern=WriteConcern(w=1))

    async def load(self, views: Collection[str]) -> dict[str, Place]:
        """The places of those of the views that have one."""
        return {it["_id"]: place_of(it) async for it in self._collection.find({"_id": {"$in": list(views)}})}

    async def load_to_move(self, views: Collection[str]) -> dict[str, Place]:
        """As `load`, and with them their other generations where these are to be brought forward."""
        others = [f"{view}{OTHER}" for view in views]
        which = {
            "$or": [{"_id": {"$in": list(views)}}, {"_id": {"$in": others}, "state": {"$in": ["rebuilding", "live"]}}]
        }
        return {it["_id"]: place_of(it) async for it in self._collection.find(which)}

    async def forget(self, view: str) -> None:
        """There is no such place any more: of an other generation that is of no use."""
        await self._collection.delete_one({"_id": view})

    async def reset(self, view: str, target: int) -> None:
        """From now on the view is empty, whoever empties it, and live when it has come to `target`. Nothing is parked."""
        place = {"position": BEFORE_ALL, "state": "emptying", "target": target, **_version(view)}
        await self._collection.update_one(
            {"_id": view}, {"$set": place, "$unset": {"parked": ""}, "$inc": {"epoch": 1}}, upsert=True
        )

    async def begin(self, view: str, target: int) -> None:
        """A place for a view that has none: it is emptied first, whatever is there. Changes nothing where there is one."""
        place = {
            "_id": view,
            "position": BEFORE_ALL,
            "state": "emptying",
            "target": target,
            "epoch": 0,
            **_version(view),
        }
        try:
            await self._collection.insert_one(place)
        except DuplicateKeyError:
            return

    async def hold(self, place: Place, session: AsyncClientSession) -> None:
        """Makes the session's transaction fail if the view leaves its place before it commits. Raises Fenced."""
        found = await self._collection.update_one(_at(place), {"$inc": {"held": 1}}, session=session)
        if not found.matched_count:
            raise Fenced((place.view,), place.position)

    async def emptied(self, place: Place) -> None:
        """The view is empty: events may come, from the first one on. Changes nothing where another said so before."""
        begun = {"$set": {"position": 0, "state": {"$cond": [{"$gt": ["$target", 0]}, "rebuilding", "live"]}}}
        await self._collection.update_one({**_at(place), "state": "emptying"}, [begun, {"$unset": "held"}])

    async def advance(
        self,
        places: Sequence[Place],
        new: int,
        released: Collection[str] = (),
        session: AsyncClientSession | None = None,
    ) -> list[Place]:
        """Moves all of the views to `new`, and says where they stand then. `released` are no longer parked: they were deleted.

        Raises Fenced when one is elsewhere. With a session, as part of its transaction. Without, the move may be forgotten
        again when MongoDB fails over.
        """
        collection = self._collection if session else self._lax
        state = {"$cond": [{"$gte": [new, "$target"]}, "live", "$state"]}
        changes: list[Document] = [{"$set": {"position": new, "state": state}}]
        if released:
            changes += [{"$set": {"epoch": _NEXT_EPOCH}}, {"$unset": [_parked(ident) for ident in released]}]
        moved = await collection.update_many({"$or": [_at(place) for place in places]}, changes, session=session)
        if moved.matched_count != len(places):
            raise Fenced((place.view for place in places), places[0].position)
        return [place.moved(new, released) for place in places]

    async def park(self, place: Place, conversation_id: str, parked: Parked) -> Place:
        """From now on the view leaves this conversation out; says how it stands then. Raises Fenced."""
        entry = {_parked(conversation_id): msgspec.to_builtins(parked)}
        found = await self._collection.update_one(_at(place), {"$set": entry, "$inc": {"epoch": 1}})
        if not found.matched_count:
            raise Fenced((place.view,), place.position)
        return replace(place, epoch=place.epoch + 1, parked={**place.parked, conversation_id: parked})

    async def claim(self, view: str, conversation_id: str, parked: Parked) -> bool:
        """Parks a conversation for the repair that `parked` names, or hands a parked one over to it, as it is.

        False where there is nothing to repair: no projector has begun with the view, or it is being emptied.
        """
        name = _parked(conversation_id)
        known = {"$ifNull": [f"${name}", {"$literal": msgspec.to_builtins(parked)}]}
        claimed = {"$mergeObjects": [known, {"repair": parked.repair, "done": 0}]}
        found = await self._collection.update_one(
            {"_id": view, "state": {"$ne": "emptying"}}, [{"$set": {name: claimed, "epoch": _NEXT_EPOCH}}]
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
        ends: bool = False,
    ) -> Place | None:
        """Where the view stands, and will until the session's transaction commits; None when the claim is lost.

        With the commit the repair has come to the version `done`; with `ends`, the conversation is parked no longer.
        """
        name = _parked(conversation_id)
        change: Document = {"$inc": {"held": 1}}
        if ends:
            change = {"$inc": {"epoch": 1, "repairs": 1}, "$unset": {name: ""}}
        elif done is not None:
            change = {"$set": {f"{name}.done": done}}
        document = await self._collection.find_one_and_update(
            {"_id": view, f"{name}.repair": repair}, change, session=session
        )
        return None if document is None else place_of(document)

    async def explain(self, view: str, conversation_id: str, repair: str, parked: Parked) -> None:
        """Says anew why a conversation is parked that a repair had claimed, which ends with that."""
        name = _parked(conversation_id)
        entry = {name: msgspec.to_builtins(parked)}
        await self._collection.update_one({"_id": view, f"{name}.repair": repair}, {"$set": entry})


def _version(view: str) -> dict[str, int]:
    """The version of the code that makes the view from now on."""
    return {"version": VERSIONS[view]} if view in VERSIONS else {}


_NEXT_EPOCH: Any = {"$add": [{"$ifNull": ["$epoch", 0]}, 1]}


def _at(place: Place) -> Document:
    """The document of a view that is still at its place. One of an older version of this store has no epoch yet."""
    return {"_id": place.view, "position": place.position, "epoch": place.epoch or {"$in": [0, None]}}


def _parked(conversation_id: str) -> str:
    return f"parked.{conversation_id}"
