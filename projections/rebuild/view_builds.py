"""The second builds of views: new collections that will replace the live ones.

A build has view positions like the live view's. Their `state` is

`filling`: backfill processes fill the collection up to `target`
`rebuilding`, `live`: projectors advance it like any view
`kept`: the collection that readers read until the last swap. Projectors do not advance it. A rollback makes it
  `rebuilding` again, marked `back`
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from pymongo import UpdateMany, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.event_log.incarnation import LogPosition
from infrastructure.stores.mongodb import Database, Document
from projections.mongo_views import MongoViews, unused_name
from projections.position_advance import PositionMoved, fields_of, parked_field
from projections.rebuild.backfill import BackfillProgress, PageSizes
from projections.view_indexes import create_indexes
from projections.view_positions import refuse_newer
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, USAGE, VERSIONS, MongoView
from projections.views.partitions import (
    ALL_PARTITIONS,
    PARTITIONS,
    partition_of,
    position_key,
    position_keys,
    split_partitions,
)
from projections.views.view_position import BUILD_SUFFIX, position_from


class ViewBuild(Struct, frozen=True, kw_only=True):
    """A second build to backfill.

    `partitions`, `reached`: each task's partitions and position, by the task's number. `parked`: the conversations with
      an event that could not be decoded.
    """

    view: MongoView
    collection: str
    target: int
    incarnation: str
    reached: Mapping[int, int]
    partitions: Mapping[int, tuple[int, ...]]
    parked: frozenset[str] = frozenset()


class BuildGone(Exception):
    """A view or its build lacks positions. Start the rebuild again."""


class ViewBuilds:
    def __init__(self, database: Database, pages: PageSizes = PageSizes()) -> None:  # noqa: B008  # frozen
        self._database = database
        self._positions = database[POSITIONS_COLLECTION]
        self._mongo_views = MongoViews(database)
        self._pages = str(pages)

    async def outdated(self) -> list[MongoView]:
        documents = self._positions.find({"view": {"$in": MONGO_VIEWS}})
        versions = {document["view"]: document["version"] async for document in documents}
        return [view for view in MONGO_VIEWS if versions.get(view, VERSIONS[view]) < VERSIONS[view]]

    async def start(self, views: Sequence[MongoView], end: LogPosition, workers: int) -> list[ViewBuild]:
        """New builds up to the log's `end`, and unfinished builds to resume.

        Raises PositionMoved, and DataIsNewer if newer code built a view.
        """
        return [build for view in views if (build := await self._start(view, end, workers)) is not None]

    async def _start(self, view: MongoView, end: LogPosition, workers: int) -> ViewBuild | None:
        existing = await self._documents(_build_of(view))
        refuse_newer((view, document["version"]) for document in [*await self._documents(view), *existing])
        # If only some positions exist, others were lost, and the build is started again.
        complete = len(existing) == PARTITIONS
        if complete and existing[0]["state"] == "filling":
            if (existing[0]["pages"], existing[0].get("incarnation")) == (self._pages, end.incarnation):
                return _view_build(view, existing)
        if complete and existing[0]["state"] in ("rebuilding", "live") and not existing[0].get("back"):
            return None  # backfilled already: projectors advance it
        used = {document["collection"] for document in [*await self._documents(view), *existing]}
        collection = unused_name(view, used)
        await self._database.drop_collection(collection)
        await create_indexes(self._database, view, collection)
        epoch = 1 + max((document["epoch"] for document in existing), default=0)
        documents: list[Document] = [
            {
                "_id": position_key(_build_of(view), partition),
                "view": _build_of(view),
                "bucket": partition,
                "collection": collection,
                "state": "filling",
                "share": number,
                "pages": self._pages,
                # The chain hash and the incarnation belong to `target`. `finish_backfill` sets `position` to `target`.
                **fields_of(end),
                "position": 0,
                "target": end.position,
                "version": VERSIONS[view],
                "epoch": epoch,
                "lease": 0,
            }
            for number, partitions in enumerate(split_partitions(workers))
            for partition in partitions
        ]
        async with self._mongo_views.transaction((view,), 0) as session:
            unused = await self._delete(view, session)
            await self._positions.insert_many(documents, session=session)
        # Dropped only after the commit. A read that began before the last swap may still use such a collection. At
        # its end, the read finds that no position names the collection.
        for name in unused:
            await self._database.drop_collection(name)
        return _view_build(view, documents)

    async def _delete(self, view: MongoView, session: AsyncClientSession) -> set[str]:
        """Returns the build's collections, which no position names after the commit."""
        where = {"view": _build_of(view)}
        collections = {document["collection"] async for document in self._positions.find(where, session=session)}
        await self._positions.delete_many(where, session=session)
        return collections

    async def _documents(self, view: str) -> list[Document]:
        return await self._positions.find({"view": view}).sort("bucket").to_list()

    async def record_progress(
        self, views: Sequence[MongoView], reached: Mapping[int, int], progress: BackfillProgress
    ) -> None:
        where = {"view": {"$in": list(map(_build_of, views))}, "state": "filling"}
        # A parked conversation must be recorded before the position after it.
        updates = [
            UpdateMany(
                {**where, "bucket": partition_of(conversation)},
                {"$set": {parked_field(conversation): msgspec.to_builtins(parked)}},
            )
            for conversation, parked in progress.parked.items()
        ]
        # In `usage` a deleted conversation stays parked, because its usage before the deletion still has to be counted.
        releasing = {**where, "view": {"$in": [_build_of(view) for view in views if view != USAGE]}}
        updates += [
            UpdateMany(releasing, {"$unset": {parked_field(conversation): ""}}) for conversation in progress.released
        ]
        updates += [
            UpdateMany({**where, "share": number}, {"$set": {"position": position}})
            for number, position in reached.items()
        ]
        await self._positions.bulk_write(updates)

    async def finish_backfill(self, views: Sequence[MongoView]) -> None:
        """Lets projectors advance the builds from now on."""
        change: list[Document] = [
            {"$set": {"state": "rebuilding", "position": "$target", "epoch": {"$add": ["$epoch", 1]}}},
            {"$unset": ["share", "pages"]},
        ]
        await self._positions.update_many({"view": {"$in": list(map(_build_of, views))}, "state": "filling"}, change)

    async def resume_kept(self, views: Sequence[MongoView]) -> list[MongoView]:
        """Lets projectors advance the kept collections, for a rollback. Returns the views that have a kept collection."""
        kept_or_resumed = {"$or": [{"state": "kept"}, {"back": True}]}
        kept = Counter([document["view"] async for document in self._positions.find(kept_or_resumed)])
        resumed = [view for view in views if kept[_build_of(view)] == PARTITIONS]
        change = {"$set": {"state": "rebuilding", "back": True}, "$inc": {"epoch": 1}}
        await self._positions.update_many({"view": {"$in": list(map(_build_of, resumed))}, "state": "kept"}, change)
        return resumed

    async def differing_positions(self, views: Sequence[MongoView]) -> dict[MongoView, tuple[int, int]]:
        """(build's position, live view's position) of each view whose build shows another part of the log.

        If several partitions differ, the pair has the lowest position of the build. Raises BuildGone.
        """
        documents = self._positions.find({})
        positions = {document["_id"]: position_from(document) async for document in documents}
        if gone := [view for view in views if not positions.keys() >= {*position_keys([view, _build_of(view)])}]:
            raise BuildGone(", ".join(gone))
        result: dict[MongoView, tuple[int, int]] = {}
        for view in views:
            pairs = zip(position_keys([_build_of(view)]), position_keys([view]), strict=True)
            differing = [
                (positions[build].position, positions[live].position)
                for build, live in pairs
                if not positions[build].shows_same_log_part(positions[live])
            ]
            if differing:
                result[view] = min(differing)
        return result

    async def swap(self, views: Sequence[MongoView]) -> None:
        """Exchanges the collections of all of these views at once. Raises PositionMoved if positions differ."""
        async with self._mongo_views.transaction(views, 0) as session:
            both = {"view": {"$in": [*views, *map(_build_of, views)]}}
            # Changing every document locks it, so projectors wait for the commit.
            await self._positions.update_many(both, {"$inc": {"epoch": 1}}, session=session)
            by_key = {document["_id"]: document async for document in self._positions.find(both, session=session)}
            changes: list[UpdateOne] = []
            for view in views:
                for partition in ALL_PARTITIONS:
                    live = by_key.get(position_key(view, partition))
                    changes += _exchange(view, live, by_key.get(position_key(_build_of(view), partition)))
            await self._positions.bulk_write(changes, session=session)

    async def drop(self, views: Sequence[MongoView]) -> list[MongoView]:
        """Returns the views that had a build. Raises PositionMoved."""
        dropped: list[MongoView] = []
        for view in views:
            async with self._mongo_views.transaction((view,), 0) as session:
                collections = await self._delete(view, session)
            for collection in collections:
                await self._database.drop_collection(collection)
                dropped.append(view)
        return dropped


def _build_of(view: MongoView) -> str:
    return f"{view}{BUILD_SUFFIX}"


def _view_build(view: MongoView, documents: Sequence[Document]) -> ViewBuild:
    by_task: dict[int, list[Document]] = {}
    for document in documents:
        by_task.setdefault(document["share"], []).append(document)
    return ViewBuild(
        view=view,
        collection=documents[0]["collection"],
        target=documents[0]["target"],
        incarnation=documents[0]["incarnation"],
        reached={number: min(document["position"] for document in of_task) for number, of_task in by_task.items()},
        partitions={number: tuple(document["bucket"] for document in of_task) for number, of_task in by_task.items()},
        parked=frozenset(conversation for document in documents for conversation in document.get("parked", {})),
    )


def _exchange(view: MongoView, live: Document | None, build: Document | None) -> list[UpdateOne]:
    """Raises PositionMoved if the positions differ, if one is missing, or if projectors do not advance the build."""
    if live is None or build is None or build["state"] in ("filling", "kept"):
        raise PositionMoved((view,), -1 if live is None else live["position"])
    if not position_from(live).shows_same_log_part(position_from(build)):
        raise PositionMoved((view,), live["position"])
    new = {name: build.get(name) for name in ("collection", "parked", "version")}
    old = {"collection": live["collection"], "parked": live.get("parked"), "version": live.get("version")}
    return [
        UpdateOne({"_id": live["_id"]}, _set(new)),
        UpdateOne({"_id": build["_id"]}, _set({**old, "state": "kept", "back": None})),
    ]


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {"$set": {name: value for name, value in fields.items() if value is not None}}
    if unset := [name for name, value in fields.items() if value is None]:
        change["$unset"] = dict.fromkeys(unset, "")
    return change
