"""A view made anew beside the one that is read: a second collection, filled from the log, brought up to date, and swapped.

In `projections` a view has a place in each bucket, `{_id: "items/3", view: "items", collection, …}`; while there is another
generation, its places stand beside them, of the view `items+`:

    filling     several processes fill it up to `target`, each its share of the buckets (`filling.py`)
    rebuilding  projectors bring it forward like any view, until it stands where the view stands, and on from there
    kept        it was the view until the last swap; nobody writes to it until it is brought forward for a way back (`back`)

A swap exchanges the two collections in one transaction, both views at one position in each bucket: a reader has either, and
misses nothing. What is kept is dropped when the next generation begins, or by `cancel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from pymongo import UpdateMany, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.stores.mongodb import Database, Document
from projections.mongo_views import MongoViews, make_indexes, unused
from projections.rebuild.backfill import PAGES, News
from projections.view_positions import PositionMoved
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, USAGE, VERSIONS, MongoView
from projections.views.partitions import ALL_PARTITIONS, partition_of, position_key, position_keys, split_partitions
from projections.views.view_position import BUILD_SUFFIX


class ViewBuild(Struct, frozen=True, kw_only=True):
    """A generation that is being filled: up to which position, and how far each share of it has come, by number.

    `parked` are the conversations that could not be read on the way.
    """

    view: MongoView
    collection: str
    until: int
    shares: Mapping[int, int]
    partitions: Mapping[int, tuple[int, ...]]
    parked: frozenset[str] = frozenset()


class BuildGone(Exception):
    """The other generation is not there any more: the view began anew meanwhile, or someone dropped it. Begin again."""


class ViewBuilds:
    """The other generations of views. Raises PyMongoError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions = database[POSITIONS_COLLECTION]
        self._mongo = MongoViews(database)

    async def outdated(self) -> list[MongoView]:
        """The views that were made by code of a lower version than this."""
        found = {it["view"]: it["version"] async for it in self._positions.find({"view": {"$in": MONGO_VIEWS}})}
        return [view for view in MONGO_VIEWS if found.get(view, VERSIONS[view]) < VERSIONS[view]]

    async def begin(self, views: Sequence[MongoView], until: int, workers: int) -> list[ViewBuild]:
        """What is to be filled: new collections, or those that were begun before and not finished. Raises PositionMoved."""
        return [filling for view in views if (filling := await self._begin(view, until, workers)) is not None]

    async def _begin(self, view: MongoView, until: int, workers: int) -> ViewBuild | None:
        others = await self._places(_other(view))
        if others and others[0]["state"] == "filling" and others[0]["pages"] == PAGES:
            return _filling(view, others)
        if others and others[0]["state"] in ("rebuilding", "live") and not others[0].get("back"):
            return None  # filled already: it is being brought up to date
        used = {place["collection"] for place in [*await self._places(view), *others]}
        collection = unused(view, used)
        await self._database.drop_collection(collection)
        await make_indexes(self._database, view, collection)
        epoch = 1 + max((place["epoch"] for place in others), default=0)
        places: list[Document] = [
            {
                "_id": position_key(_other(view), partition),
                "view": _other(view),
                "bucket": partition,
                "collection": collection,
                "state": "filling",
                "share": number,
                "pages": PAGES,
                "position": 0,
                "target": until,
                "version": VERSIONS[view],
                "epoch": epoch,
                "lease": 0,
            }
            for number, its in enumerate(split_partitions(workers))
            for partition in its
        ]
        async with self._mongo.transaction((view,), 0) as session:
            dropped = await self._delete(view, session)
            await self._positions.insert_many(places, session=session)
        # After that: a read that began before the last swap knows by the places that what it read was still there.
        for kept in dropped:
            await self._database.drop_collection(kept)
        return _filling(view, places)

    async def _delete(self, view: MongoView, session: AsyncClientSession) -> set[str]:
        """Forgets the other generation, and says which collections that were: nobody else's any more once this is committed."""
        its = {"view": _other(view)}
        collections = {place["collection"] async for place in self._positions.find(its, session=session)}
        await self._positions.delete_many(its, session=session)
        return collections

    async def _places(self, view: str) -> list[Document]:
        return await self._positions.find({"view": view}).sort("bucket").to_list()

    async def note(self, views: Sequence[MongoView], reached: Mapping[int, int], news: News) -> None:
        """Says how far the shares have come, and what was parked or let go of."""
        others = {"view": {"$in": list(map(_other, views))}, "state": "filling"}
        # In this order: what is parked on the way is on record before the place behind it is.
        changes = [
            UpdateMany({**others, "bucket": partition_of(it)}, {"$set": {f"parked.{it}": msgspec.to_builtins(parked)}})
            for it, parked in news.parked.items()
        ]
        # Totals still have to count what came before a deletion: there it stays parked.
        letting_go = {**others, "view": {"$in": [_other(view) for view in views if view != USAGE]}}
        changes += [UpdateMany(letting_go, {"$unset": {f"parked.{it}": ""}}) for it in news.released]
        changes += [UpdateMany({**others, "share": it}, {"$set": {"position": at}}) for it, at in reached.items()]
        await self._positions.bulk_write(changes)

    async def filled(self, views: Sequence[MongoView]) -> None:
        """From now on projectors bring them forward, from the position up to which they were filled."""
        forward: list[Document] = [
            {"$set": {"state": "rebuilding", "position": "$target", "epoch": {"$add": ["$epoch", 1]}}},
            {"$unset": ["share", "pages"]},
        ]
        await self._positions.update_many({"view": {"$in": list(map(_other, views))}, "state": "filling"}, forward)

    async def bring_back(self, views: Sequence[MongoView]) -> list[MongoView]:
        """Has what was kept brought forward, and returns the views of which something was kept."""
        either = {"$or": [{"state": "kept"}, {"back": True}]}
        kept = {document["view"] async for document in self._positions.find(either)}
        found = [view for view in views if _other(view) in kept]
        change = {"$set": {"state": "rebuilding", "back": True}, "$inc": {"epoch": 1}}
        await self._positions.update_many({"view": {"$in": list(map(_other, found))}, "state": "kept"}, change)
        return found

    async def behind(self, views: Sequence[MongoView]) -> dict[MongoView, tuple[int, int]]:
        """Of each view whose other generation is elsewhere in some bucket: (where that is, where the view is).

        Raises BuildGone.
        """
        found = {it["_id"]: it["position"] async for it in self._positions.find({}, {"position": 1})}
        if gone := [view for view in views if not found.keys() >= {*position_keys([view, _other(view)])}]:
            raise BuildGone(", ".join(gone))
        behind: dict[MongoView, tuple[int, int]] = {}
        for view in views:
            pairs = [(found[position_key(_other(view), it)], found[position_key(view, it)]) for it in ALL_PARTITIONS]
            elsewhere = [(other, live) for other, live in pairs if other != live]
            if elsewhere:
                behind[view] = min(elsewhere)
        return behind

    async def swap(self, views: Sequence[MongoView]) -> None:
        """Exchanges the generations of all of these views at once. Raises PositionMoved when a view and its other are not at one place."""
        async with self._mongo.transaction(views, 0) as session:
            every = {"view": {"$in": [*views, *map(_other, views)]}}
            # Taking all of the documents in hand holds the projectors up until the commit.
            await self._positions.update_many(every, {"$inc": {"epoch": 1}}, session=session)
            places = {it["_id"]: it async for it in self._positions.find(every, session=session)}
            changes: list[UpdateOne] = []
            for view in views:
                for partition in ALL_PARTITIONS:
                    live, other = (
                        places.get(position_key(view, partition)),
                        places.get(position_key(_other(view), partition)),
                    )
                    changes += _exchanged(view, live, other)
            await self._positions.bulk_write(changes, session=session)

    async def cancel(self, views: Sequence[MongoView]) -> list[MongoView]:
        """Drops the other generations, whatever state they are in, and says of which views there were any. Raises PositionMoved."""
        dropped: list[MongoView] = []
        for view in views:
            async with self._mongo.transaction((view,), 0) as session:
                collections = await self._delete(view, session)
            for collection in collections:
                await self._database.drop_collection(collection)
                dropped.append(view)
        return dropped


def _other(view: MongoView) -> str:
    return f"{view}{BUILD_SUFFIX}"


def _filling(view: MongoView, places: Sequence[Document]) -> ViewBuild:
    numbers = {place["share"] for place in places}
    return ViewBuild(
        view=view,
        collection=places[0]["collection"],
        until=places[0]["target"],
        shares={number: min(it["position"] for it in places if it["share"] == number) for number in numbers},
        partitions={number: tuple(it["bucket"] for it in places if it["share"] == number) for number in numbers},
        parked=frozenset(ident for place in places for ident in place.get("parked", {})),
    )


def _exchanged(view: MongoView, live: Document | None, other: Document | None) -> list[UpdateOne]:
    """What makes each of two places of a bucket the other. Raises PositionMoved when they are not at one position."""
    if live is None or other is None or live["position"] != other["position"] or other["state"] in ("filling", "kept"):
        raise PositionMoved((view,), -1 if live is None else live["position"])
    shown = {name: other.get(name) for name in ("collection", "parked", "version")}
    was = {"collection": live["collection"], "parked": live.get("parked"), "version": live.get("version")}
    return [
        UpdateOne({"_id": live["_id"]}, _set(shown)),
        UpdateOne({"_id": other["_id"]}, _set({**was, "state": "kept", "back": None})),
    ]


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The change that gives a document these fields, and takes away those that are None."""
    change: dict[str, Any] = {"$set": {name: value for name, value in fields.items() if value is not None}}
    if gone := [name for name, value in fields.items() if value is None]:
        change["$unset"] = dict.fromkeys(gone, "")
    return change
