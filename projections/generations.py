"""A view made anew beside the one that is read: a second collection, filled from the log, brought up to date, and swapped.

In `projections` a view's document is `{_id: "items", collection, …}`; while there is another generation, its document stands beside it:

    {_id: "items+", collection, state, position, …}

    filling     several processes fill it up to `target`; `shares` says how far each has come (`filling.py`)
    rebuilding  a projector brings it forward like any view, until it stands where the view stands, and on from there
    kept        it was the view until the last swap; nobody writes to it until it is brought forward for a way back

A swap exchanges the two collections in one transaction, both views at one position: a reader has either, and misses nothing.
What is kept is dropped when the next generation begins, or by `cancel`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from pymongo import IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.mongodb import Database, Document
from projections.filling import News
from projections.mongo import MongoViews
from projections.positions import OTHER, Fenced
from projections.read_models import INDEXES, POSITIONS, VERSIONS, VIEWS, View


class Filling(Struct, frozen=True, kw_only=True):
    """A generation that is being filled: up to which position, and how far each share has come.

    `parked` are the conversations that could not be read on the way.
    """

    view: View
    collection: str
    until: int
    shares: tuple[int, ...]
    parked: frozenset[str] = frozenset()


class Generations:
    """The other generations of views. Raises PyMongoError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = database[POSITIONS]
        self._mongo = MongoViews(database)

    async def outdated(self) -> list[View]:
        """The views that were made by code of a lower version than this."""
        found = {it["_id"]: it.get("version", 1) async for it in self._positions.find({"_id": {"$in": VIEWS}})}
        return [view for view in VIEWS if found.get(view, VERSIONS[view]) < VERSIONS[view]]

    async def begin(self, views: Sequence[View], until: int, shares: int) -> list[Filling]:
        """What is to be filled: new collections, or those that were begun before and not finished."""
        return [filling for view in views if (filling := await self._begin(view, until, shares)) is not None]

    async def _begin(self, view: View, until: int, shares: int) -> Filling | None:
        other = await self._positions.find_one({"_id": _other(view)})
        if other is not None and other["state"] == "filling":
            return _filling(view, other)
        if other is not None and other["state"] != "kept":
            return None  # filled already: it is being brought up to date
        live = await self._positions.find_one({"_id": view})
        used = [document.get("collection", view) for document in (live, other) if document is not None]
        collection = f"{view}_{1 + max(map(_number, used), default=1)}"
        if other is not None:
            await self._database.drop_collection(other["collection"])
        await self._database.drop_collection(collection)
        await self._database[collection].create_indexes([IndexModel(list(index)) for index in INDEXES[view]])
        document: Document = {
            "collection": collection,
            "state": "filling",
            "position": 0,
            "target": until,
            "shares": [0] * shares,
            "version": VERSIONS[view],
            "epoch": 1 + (other or {}).get("epoch", 0),
        }
        await self._positions.replace_one({"_id": _other(view)}, document, upsert=True)
        return _filling(view, document)

    async def note(self, views: Sequence[View], shares: Mapping[int, int], news: News) -> None:
        """Says how far the shares have come, and what was parked or let go of."""
        change: Document = {
            "$set": {
                **{f"shares.{number}": position for number, position in shares.items()},
                **{f"parked.{ident}": msgspec.to_builtins(parked) for ident, parked in news.parked.items()},
            }
        }
        if news.released:
            change["$unset"] = {f"parked.{ident}": "" for ident in news.released}
        others = list(map(_other, views))
        await self._positions.update_many({"_id": {"$in": others}, "state": "filling"}, change)

    async def filled(self, views: Sequence[View]) -> None:
        """From now on projectors bring them forward, from the position up to which they were filled."""
        forward: list[Document] = [
            {"$set": {"state": "rebuilding", "position": "$target", "epoch": {"$add": ["$epoch", 1]}}},
            {"$unset": "shares"},
        ]
        await self._positions.update_many({"_id": {"$in": list(map(_other, views))}, "state": "filling"}, forward)

    async def bring_back(self, views: Sequence[View]) -> list[View]:
        """Has what was kept brought forward, and returns the views of which something was kept."""
        kept = {document["_id"] async for document in self._positions.find({"state": "kept"})}
        found = [view for view in views if _other(view) in kept]
        change = {"$set": {"state": "rebuilding"}, "$inc": {"epoch": 1}}
        await self._positions.update_many({"_id": {"$in": list(map(_other, found))}, "state": "kept"}, change)
        return found

    async def behind(self, views: Sequence[View]) -> dict[View, tuple[int, int]]:
        """Of each view whose other generation is elsewhere: (where that is, where the view is)."""
        found = {it["_id"]: it["position"] async for it in self._positions.find({}, {"position": 1})}
        pairs = {view: (found.get(_other(view), 0), found.get(view, 0)) for view in views}
        return {view: (other, live) for view, (other, live) in pairs.items() if other != live}

    async def swap(self, views: Sequence[View]) -> None:
        """Exchanges the generations of all of these views at once. Raises Fenced when a view and its other are not at one place."""
        async with self._mongo.transaction(views, 0) as session:
            for view in views:
                await self._swap(view, session)

    async def _swap(self, view: View, session: AsyncClientSession) -> None:
        # Taking both documents in hand holds the projectors up until the commit.
        held = {"$inc": {"epoch": 1}}
        live = await self._positions.find_one_and_update({"_id": view}, held, session=session)
        other = await self._positions.find_one_and_update({"_id": _other(view)}, held, session=session)
        if live is None or other is None or live["position"] != other["position"] or other["state"] in ("filling", "kept"):
            raise Fenced((view,), -1 if live is None else live["position"])
        shown = {name: other.get(name) for name in ("collection", "parked", "version")}
        was = {"collection": live.get("collection", view), "parked": live.get("parked"), "version": live.get("version")}
        await self._positions.update_one({"_id": view}, _set(shown), session=session)
        await self._positions.update_one({"_id": _other(view)}, _set({**was, "state": "kept"}), session=session)

    async def cancel(self, views: Sequence[View]) -> list[View]:
        """Drops the other generations, whatever state they are in, and says of which views there were any."""
        dropped: list[View] = []
        for view in views:
            other = await self._positions.find_one_and_delete({"_id": _other(view)})
            if other is not None:
                await self._database.drop_collection(other["collection"])
                dropped.append(view)
        return dropped


def _other(view: View) -> str:
    return f"{view}{OTHER}"


def _number(collection: str) -> int:
    """The generation of a collection; the first has none in its name."""
    found = re.search(r"_(\d+)$", collection)
    return int(found[1]) if found else 1


def _filling(view: View, document: Document) -> Filling:
    return Filling(
        view=view,
        collection=document["collection"],
        until=document["target"],
        shares=tuple(document["shares"]),
        parked=frozenset(document.get("parked", {})),
    )


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The change that gives a document these fields, and takes away those that are None."""
    change: dict[str, Any] = {"$set": {name: value for name, value in fields.items() if value is not None}}
    if gone := [name for name, value in fields.items() if value is None]:
        change["$unset"] = dict.fromkeys(gone, "")
    return change
