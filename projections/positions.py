"""How far each view has come: `projections` in MongoDB, one document a view. Whoever moves a view forward moves this too.

    {_id: view, position, state, target}

`position` is the last event a view shows; it moves only from the value its mover has read, so that of two projectors one
loses and writes nothing. `state` tells a view's life:

    (absent) -> emptying (position -1) -> rebuilding (0 …) -> live
    any      -> emptying                                      by `reset`

An emptying view is nobody's to write to; `target` is the head of the log at that moment, where it is live again.
"""

from collections.abc import Collection, Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from pymongo import WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from infrastructure.mongodb import Database
from projections.read_models import POSITIONS

BEFORE_ALL = -1
"""The position of a view that is being emptied: no event's, and nobody's to move from."""


class Place(Struct, frozen=True):
    """Where a view stands."""

    view: str
    position: int
    state: Literal["emptying", "rebuilding", "live"]
    target: int

    def moved(self, position: int) -> "Place":
        """Where it stands after an advance to `position`."""
        is_there = self.state == "live" or position >= self.target
        return replace(self, position=position, state="live" if is_there else "rebuilding")


class Fenced(Exception):
    """The view is no longer where the writer read it: another projector moved it, or it was reset. Nothing was written."""

    def __init__(self, views: Iterable[str], position: int) -> None:
        super().__init__(f"{', '.join(sorted(views))} left position {position} meanwhile")


class Positions:
    """The places of the views, as MongoDB has them."""

    def __init__(self, database: Database) -> None:
        self._collection = database[POSITIONS]
        # Where a view's writes may safely come again, its position need not wait for the journal.
        self._lax = self._collection.with_options(write_concern=WriteConcern(w=1))

    async def load(self, views: Collection[str]) -> dict[str, Place]:
        """The places of those of the views that have one."""
        found = self._collection.find({"_id": {"$in": list(views)}})
        return {it["_id"]: Place(it["_id"], it["position"], it["state"], it["target"]) async for it in found}

    async def reset(self, view: str, target: int) -> None:
        """From now on the view is empty, whoever empties it, and live when it has come to `target`."""
        place = {"position": BEFORE_ALL, "state": "emptying", "target": target}
        await self._collection.update_one({"_id": view}, {"$set": place}, upsert=True)

    async def begin(self, view: str, target: int) -> None:
        """A place for a view that has none: it is emptied first, whatever is there. Changes nothing where there is one."""
        place = {"_id": view, "position": BEFORE_ALL, "state": "emptying", "target": target}
        try:
            await self._collection.insert_one(place)
        except DuplicateKeyError:
            return

    async def hold(self, view: str, position: int, session: AsyncClientSession) -> None:
        """Makes the session's transaction fail if the view leaves `position` before it commits. Raises Fenced."""
        found = await self._collection.update_one(
            {"_id": view, "position": position}, {"$inc": {"held": 1}}, session=session
        )
        if not found.matched_count:
            raise Fenced((view,), position)

    async def emptied(self, view: str) -> None:
        """The view is empty: events may come, from the first one on. Changes nothing where another said so before."""
        begun = {"$set": {"position": 0, "state": {"$cond": [{"$gt": ["$target", 0]}, "rebuilding", "live"]}}}
        await self._collection.update_one({"_id": view, "state": "emptying"}, [begun, {"$unset": "held"}])

    async def advance(
        self, views: Collection[str], old: int, new: int, session: AsyncClientSession | None = None
    ) -> None:
        """Moves all of the views from `old` to `new`. Raises Fenced when one is elsewhere.

        With a session, as part of its transaction. Without, the move may be forgotten again when MongoDB fails over.
        """
        collection = self._collection if session else self._lax
        state = {"$cond": [{"$gte": [new, "$target"]}, "live", "$state"]}
        moved = await collection.update_many(
            {"_id": {"$in": list(views)}, "position": old},
            [{"$set": {"position": new, "state": state}}],
            session=session,
        )
        if moved.matched_count != len(views):
            raise Fenced(views, old)
