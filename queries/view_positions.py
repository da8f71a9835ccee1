"""How far each view has come, as MongoDB says: `projections`, as `projections/view_positions.py` has it. For `queries/` only.

A view has a place in each bucket of conversations. One whose state is not `live` is filled anew from the first event on. What it has
parked stands still in it, or is being repaired; `repairs` counts those that came back.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pymongo
from msgspec import Struct

from infrastructure.stores.mongodb import Database, Document
from projections.views.partitions import ident, idents
from projections.views.read_models import ALL_VIEWS, POSITIONS

ANSWER_SECONDS: Final = 2.0


class ViewPosition(Struct, frozen=True):
    """Where a view stands in a bucket, and which collection it is now. `live`: it is whole. `parked`: why, by conversation id."""

    position: int
    live: bool
    state: str
    parked: Mapping[str, Mapping[str, Any]] = {}
    repairs: int = 0
    collection: str = ""
    version: int = 1

    def parked_of(self, tenant: str) -> list[str]:
        """The conversations of this tenant that are parked."""
        return [ident for ident, parked in self.parked.items() if parked["tenant"] == tenant]


NOWHERE: Final = ViewPosition(position=-1, live=False, state="absent")
"""Where a view stands that no projector has begun with."""

Places = Mapping[str, ViewPosition]
"""By their `_id`: `items/3`."""


def of_view(places: Places, view: str) -> list[ViewPosition]:
    """The view's place in each bucket."""
    return [places.get(name, NOWHERE) for name in idents([view])]


class ViewPositions:
    """Reads them. Those who ask while a read is under way share it."""

    def __init__(self, database: Database) -> None:
        self._collection = database[POSITIONS]
        self._reading: asyncio.Task[Places] | None = None
        self._last: Places = {}

    async def read(self) -> Places:
        """The places of all views, as of now or of a moment ago. Raises PyMongoError."""
        if self._reading is None:
            self._reading = asyncio.create_task(self.read_now())
            self._reading.add_done_callback(self._read_done)
        return await asyncio.shield(self._reading)

    async def read_now(self) -> Places:
        """The places of all views, read after this was called. Raises PyMongoError."""
        with pymongo.timeout(ANSWER_SECONDS):
            self._last = places(await self._collection.find({"view": {"$in": ALL_VIEWS}}, _SHOWN).to_list())
            return self._last

    def last_collection(self, view: str) -> str:
        """What the view was when it was last looked at."""
        return self._last.get(ident(view, 0), NOWHERE).collection or view

    async def collections(self) -> set[str]:
        """All collections that are views, other generations of them included. Raises PyMongoError."""
        return set(await self._collection.distinct("collection"))

    def _read_done(self, task: asyncio.Task[Any]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # all who asked may be gone: then nobody else looks at it


def places(documents: Iterable[Document]) -> Places:
    """The place that each of these documents says."""
    return {document["_id"]: _place(document) for document in documents}


def with_places(names: Sequence[str]) -> Document:
    """A stage at the end of a pipeline: the places of these names, read after its documents in the same request."""
    return {"$unionWith": {"coll": POSITIONS, "pipeline": [{"$match": {"_id": {"$in": names}}}]}}


_SHOWN: Final = ("position", "state", "parked", "repairs", "collection", "version")


def _place(document: Document) -> ViewPosition:
    state = document["state"]
    return ViewPosition(
        position=document["position"],
        live=state == "live",
        state=state,
        parked=document.get("parked", {}),
        repairs=document.get("repairs", 0),
        collection=document["collection"],
        version=document["version"],
    )
