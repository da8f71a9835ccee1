"""Who reads, and what from: every route receives a `QueryContext`. For `queries/` only; `main.py` makes the sources."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from pymongo.asynchronous.collection import AsyncCollection
from redis.asyncio import Redis
from starlette.requests import Request

from context.assembly import Contexts
from context.models import Models
from infrastructure.access.principal import Principal
from infrastructure.stores.mongodb import Database
from projections.views.catalog import MongoView
from projections.views.writes import Document, document_key
from queries.consistency import Consistency, ConversationRead, Read
from queries.log_access import LogAccess
from queries.view_positions import positions_from, with_positions

if TYPE_CHECKING:  # the scripts import this module, and need no provider
    from replies.provider.provider import ModelProvider

MAX_POSITION = 2**63 - 1
"""The largest version and position there can be: a bigint of Postgres, a 64-bit integer of MongoDB."""


class Sources(Struct, frozen=True):
    """What the routes of this process read from."""

    log: LogAccess
    views: Database
    redis: Redis
    provider: "ModelProvider"
    models: Models
    consistency: Consistency
    contexts: Contexts
    shutdown: threading.Event
    """Set when the process is about to stop: streams that follow something end."""


class QueryContext(Struct, frozen=True):
    """Who sent this request, and how new its answer must be at least."""

    sources: Sources
    principal: Principal
    min_position: int
    request: Request

    async def read(self, conversation_id: str, *views: MongoView) -> ConversationRead:
        """Returns when these views are current for the conversation. Raises what Consistency.conversation raises."""
        return await self.sources.consistency.conversation(
            self.principal.tenant, conversation_id, *views, min_position=self.min_position
        )

    async def read_everything(self, *views: MongoView) -> Read:
        """Returns when these views are current. Raises what Consistency.everything raises."""
        return await self.sources.consistency.everything(self.principal.tenant, *views, min_position=self.min_position)

    def collection(self, read: Read, view: MongoView) -> AsyncCollection[Document]:
        """What the view was when the read began: it is whole, and stays so, whatever takes its place meanwhile."""
        return self.sources.views[read.collections[view]]

    async def find(self, read: Read, view: MongoView, ident: str, *fields: str) -> Document | None:
        """The caller's document of this id; of it these fields, where any are named. None: there is none, surely.

        Raises ApiError 503 when a view was reset since the read began, or it is parked what is read.
        """
        shown = {"$project": {"_id": 0, **dict.fromkeys(fields, 1)}}
        found = await self.select(read, view, [{"$match": {"_id": document_key(self.principal.tenant, ident)}}, shown])
        return found[0] if found else None

    async def select(self, read: Read, view: MongoView, pipeline: Sequence[Document]) -> list[Document]:
        """What the pipeline gives of the view, without `_id`. Raises what Consistency.check raises."""
        found = await (await self.collection(read, view).aggregate([*pipeline, with_positions(read.places)])).to_list()
        await self.sources.consistency.check(read, positions_from(document for document in found if "_id" in document))
        return [document for document in found if "_id" not in document]
