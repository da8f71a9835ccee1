"""A repair's claim on a parked conversation, kept in the view position."""

from typing import Any

import msgspec
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.stores.mongodb import Database, Document
from projections.position_advance import parked_field
from projections.views.catalog import POSITIONS_COLLECTION
from projections.views.partitions import partition_of, position_key
from projections.views.view_position import Parked, ViewPosition, position_from

_NEXT_EPOCH: Any = {"$add": ["$epoch", 1]}


class RepairClaims:
    def __init__(self, database: Database, conversation_id: str, repair_id: str) -> None:
        self._collection = database[POSITIONS_COLLECTION]
        self._conversation_id = conversation_id
        self._repair_id = repair_id
        self._field = parked_field(conversation_id)

    async def claim(self, view: str, parked: Parked) -> bool:
        """Takes the claim from any other repair. False if no projector has started the view.

        A conversation that is not parked is parked with the entry `parked`, at the view's position + 1.
        """
        entry = {"$mergeObjects": [{"$literal": msgspec.to_builtins(parked)}, {"position": {"$add": ["$position", 1]}}]}
        claimed = {"$mergeObjects": [{"$ifNull": [f"${self._field}", entry]}, {"repair": self._repair_id, "done": 0}]}
        result = await self._collection.update_one(
            self._position_of(view), [{"$set": {self._field: claimed, "epoch": _NEXT_EPOCH}}]
        )
        return bool(result.matched_count)

    async def lock(self, view: str, session: AsyncClientSession) -> ViewPosition | None:
        """Locks the view's position until the transaction ends. None if the claim was lost."""
        return await self._change(view, {"$inc": {"held": 1}}, session)

    async def record_progress(
        self, view: str, session: AsyncClientSession, *, done: int, counted: int | None = None
    ) -> None:
        """`done`: the version reached. `counted`: `usage` counts the events up to this position."""
        change: Document = {"$set": {f"{self._field}.done": done}}
        if counted is not None:
            change["$set"][f"{self._field}.position"] = counted + 1
        await self._change(view, change, session)

    async def finish(self, view: str, session: AsyncClientSession) -> None:
        """Ends the parking. Does nothing if the claim was lost."""
        await self._change(view, {"$inc": {"epoch": 1, "repairs": 1}, "$unset": {self._field: ""}}, session)

    async def give_up(self, view: str, parked: Parked) -> None:
        """Ends the claim. The conversation stays parked, with this entry."""
        change = {"$set": {self._field: msgspec.to_builtins(parked)}}
        await self._collection.update_one(self._claimed_in(view), change)

    async def _change(self, view: str, change: Document, session: AsyncClientSession) -> ViewPosition | None:
        document = await self._collection.find_one_and_update(self._claimed_in(view), change, session=session)
        return None if document is None else position_from(document)

    def _claimed_in(self, view: str) -> Document:
        return {**self._position_of(view), f"{self._field}.repair": self._repair_id}

    def _position_of(self, view: str) -> Document:
        return {"_id": position_key(view, partition_of(self._conversation_id))}
