"""Reads the view positions from MongoDB."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import pymongo

from infrastructure.stores.mongodb import Database, Document
from projections.views.catalog import ALL_VIEWS, POSITIONS_COLLECTION
from projections.views.partitions import ALL_PARTITIONS, position_key, view_of_key
from projections.views.view_position import ViewPosition, no_position, position_from

READ_TIMEOUT_SECONDS: Final = 2.0

Positions = Mapping[str, ViewPosition]
"""The positions by `_id`, such as `items/3`."""


def position_at(positions: Positions, key: str) -> ViewPosition:
    """A position that is not among `positions` is `absent`."""
    position = positions.get(key)
    return no_position(view_of_key(key), int(key.rpartition("/")[2])) if position is None else position


def positions_of(positions: Positions, view: str) -> list[ViewPosition]:
    return [position_at(positions, position_key(view, partition)) for partition in ALL_PARTITIONS]


class ViewPositionReader:
    """Calls of `read` for the same views at the same time share one read."""

    def __init__(self, database: Database) -> None:
        self._collection = database[POSITIONS_COLLECTION]
        self._running_reads: dict[frozenset[str], asyncio.Task[Positions]] = {}
        self._last: Positions = {}

    async def read(self, views: Collection[str] = ALL_VIEWS) -> Positions:
        """The read may have started shortly before this call. Raises PyMongoError."""
        wanted = frozenset(views)
        if (running := self._running_reads.get(wanted)) is None:
            running = self._running_reads[wanted] = asyncio.create_task(self.read_now(wanted))
            running.add_done_callback(lambda task: self._read_done(wanted, task))
        return await asyncio.shield(running)

    async def read_now(self, views: Collection[str] = ALL_VIEWS) -> Positions:
        """The read starts now. Raises PyMongoError."""
        positions, _ = await self.read_with(views, [])
        return positions

    async def read_with(self, views: Collection[str], stages: Sequence[Document]) -> tuple[Positions, list[Document]]:
        """The positions, and then the documents that the stages add, in one request. Raises PyMongoError.

        `stages`: each is a `$unionWith` whose documents have no `_id`.
        """
        pipeline: list[Document] = [{"$match": {"view": {"$in": [*views]}}}, {"$project": _FIELDS}, *stages]
        with pymongo.timeout(READ_TIMEOUT_SECONDS):
            cursor = await self._collection.aggregate(pipeline)
            documents = await cursor.to_list()
        positions = positions_from(document for document in documents if "_id" in document)
        self._last = {**self._last, **positions}
        return positions, [document for document in documents if "_id" not in document]

    def last_collection(self, view: str) -> str:
        """The view's collection at the last read of its positions. If the view had no position, the view's name."""
        return self.last_position(view).collection or view

    def last_position(self, view: str) -> ViewPosition:
        """One of the view's positions, as they were last read."""
        return position_at(self._last, position_key(view, 0))

    async def collections(self) -> set[str]:
        """The collections of all views, second builds included. Raises PyMongoError."""
        return set(await self._collection.distinct("collection"))

    def _read_done(self, views: frozenset[str], task: asyncio.Task[Any]) -> None:
        del self._running_reads[views]
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that nobody retrieves, and every caller may have given up


def positions_from(documents: Iterable[Document]) -> Positions:
    return {document["_id"]: position_from(document) for document in documents}


def with_positions(keys: Sequence[str]) -> Document:
    """The last stage of a pipeline. Reads the positions after the documents, in the same request."""
    return {"$unionWith": {"coll": POSITIONS_COLLECTION, "pipeline": [{"$match": {"_id": {"$in": keys}}}]}}


_FIELDS: Final = dict.fromkeys(
    (
        "view",
        "bucket",
        "position",
        "chain_hash",
        "incarnation",
        "state",
        "parked",
        "repairs",
        "collection",
        "version",
    ),
    1,
)
