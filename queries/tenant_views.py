"""Reads the views' documents of one tenant. Every read names the tenant, either in the `_id`s or in the filter."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from pymongo.asynchronous.command_cursor import AsyncCommandCursor

from infrastructure.stores.mongodb import Database
from projections.views.writes import Document, document_key


class Ids(Struct, frozen=True):
    ids: Sequence[str]


Index = tuple[tuple[str, int], ...]
"""As in `projections/views/catalog.py`."""

Selection = Ids | Document


class TenantViews:
    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    async def aggregate(
        self,
        collection: str,
        selection: Selection,
        stages: Sequence[Document] = (),
        batch_size: int | None = None,
        *,
        max_seconds: float | None = None,
        index: Index | None = None,
    ) -> AsyncCommandCursor[Document]:
        """Raises pymongo's ExecutionTimeout after `max_seconds`.

        `index`: the index that MongoDB must use (its `hint`). Without `index`, MongoDB may change its choice later.
        """
        pipeline = [{"$match": self._filter(selection)}, *stages]
        options: dict[str, Any] = {} if batch_size is None else {"batchSize": batch_size}
        if max_seconds is not None:
            options["maxTimeMS"] = round(max_seconds * 1000)
        if index is not None:
            options["hint"] = dict(index)
        return await self._database[collection].aggregate(pipeline, **options)

    def union(self, collection: str, selection: Selection, stages: Sequence[Document]) -> Document:
        return {"$unionWith": {"coll": collection, "pipeline": [{"$match": self._filter(selection)}, *stages]}}

    def _filter(self, selection: Selection) -> Document:
        if not isinstance(selection, Ids):
            return {**selection, "tenant": self._tenant}
        keys = [document_key(self._tenant, document_id) for document_id in selection.ids]
        return {"_id": keys[0] if len(keys) == 1 else {"$in": keys}}
