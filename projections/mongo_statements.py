"""The MongoDB commands of one batch."""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from pymongo.errors import BulkWriteError

from infrastructure.stores.mongodb import Document
from projections.coalesce import Change, ViewBatch
from projections.parking import ViewDiverged
from projections.position_advance import Advance
from projections.views.catalog import POSITIONS_COLLECTION
from projections.views.writes import document_key

_DUPLICATE_KEY = 11000


class Statement(Struct, frozen=True):
    """A MongoDB command. `changes`: how many existing documents it must change."""

    view: str
    command: Document
    changes: int | None = None

    def check(self, read: Callable[[], Document]) -> None:
        """Checks the answer that `read` returns.

        Raises ViewDiverged if a document to change is missing, or if one to insert exists already.
        """
        try:
            answer = read()
        except BulkWriteError as error:
            codes = {failed["code"] for failed in error.details.get("writeErrors", ())}
            if _DUPLICATE_KEY in codes:
                raise ViewDiverged(self.view, "a document to insert exists already") from error
            raise
        if self.changes is not None and answer["n"] != self.changes:
            raise ViewDiverged(self.view, f"{self.changes - answer['n']} documents to change do not exist")


def batch_statements(view: str, collection: str, batch: ViewBatch) -> Iterator[Statement]:
    if batch.updates:
        updates = [{"q": {"_id": key}, "u": update_operators(change)} for key, change in batch.updates.items()]
        yield Statement(view, {"update": collection, "updates": updates, "ordered": False}, changes=len(updates))
    if batch.removed:
        filters: list[Document] = [
            {"tenant": tenant, "conversation_id": conversation_id} for tenant, conversation_id in batch.removed
        ]
        if view == "conversations":
            filters = [{"_id": {"$in": [document_key(tenant, removed) for tenant, removed in batch.removed]}}]
        deletes = [{"q": where, "limit": 0} for where in filters]
        yield Statement(view, {"delete": collection, "deletes": deletes, "ordered": False})
    if batch.increments:
        upserts = [
            {
                "q": {"_id": key},
                "u": {
                    "$setOnInsert": increment.document,
                    "$inc": increment.add,
                    "$max": {"position": increment.position},
                },
                "upsert": True,
            }
            for key, increment in batch.increments.items()
        ]
        yield Statement(view, {"update": collection, "updates": upserts, "ordered": False})
    if batch.inserts:
        yield Statement(view, {"insert": collection, "documents": [*batch.inserts.values()], "ordered": False})


def advance_command(advance: Advance) -> Document:
    return {
        "update": POSITIONS_COLLECTION,
        "updates": [{"q": advance.where, "u": advance.change, "multi": True}],
    }


def update_operators(change: Change) -> dict[str, Any]:
    operators: dict[str, Any] = {}
    if change.set:
        operators["$set"] = change.set
    if change.add:
        operators["$inc"] = change.add
    if change.unset:
        operators["$unset"] = change.unset
    return operators
