"""What every query receives: the caller, the minimum position that its answer must show, and the stores to read from."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from redis.asyncio import Redis
from starlette.requests import Request

from context.assembly import Contexts, SharedContexts
from context.models import Models
from domain.events import Fork
from infrastructure.access.key_store import KeyStore
from infrastructure.access.principal import Principal
from infrastructure.http.connections import Connections
from infrastructure.http.headers import etag, is_unmodified
from infrastructure.stores.mongodb import Database
from infrastructure.stores.postgres import Pool
from projections.views.catalog import MongoView
from projections.views.writes import Document
from queries.consistency import Consistency, ConversationRead, Read
from queries.event_stream import EventStreams
from queries.fork_origins import ForkOrigins
from queries.log_access import LogAccess, PostgresUnavailable
from queries.not_modified import HEADER, NotModified
from queries.partition_watch import PartitionWatch
from queries.principal_log import PrincipalLog
from queries.tenant_views import Ids, Selection, TenantViews
from queries.view_positions import positions_from, with_positions
from queries.view_reports import ViewReports
from replies.following import ReplyStreams

if TYPE_CHECKING:  # the scripts import this module, and importing the provider takes a second
    from replies.provider.provider import ModelProvider

MAX_POSITION = 2**63 - 1
"""The largest position and version: a bigint of Postgres, a 64-bit integer of MongoDB."""

BATCH_DOCUMENTS = 32
"""How many documents of a page MongoDB sends at a time. A page of the default length with the positions of a view is one batch."""

MAX_SMALL_DOCUMENT_BYTES = 32 * 1024

WITHOUT_LARGE: Document = {
    "$replaceWith": {
        "$cond": [
            {"$gt": [{"$bsonSize": "$$ROOT"}, MAX_SMALL_DOCUMENT_BYTES]},
            {"is_large": True},
            "$$ROOT",
        ]
    }
}
"""A stage of a pipeline that replaces each document of more than MAX_SMALL_DOCUMENT_BYTES with `{is_large: true}`."""


def is_large(document: Document) -> bool:
    """Whether WITHOUT_LARGE replaced the document."""
    return "is_large" in document


class SharedDependencies(Struct, frozen=True, kw_only=True):
    """What the queries of a process share.

    `connections`: where large answers wait for their turn. `comment_seconds`: after this long without an event, a stream sends a comment.
    """

    provider: "ModelProvider"
    models: Models
    shared_contexts: SharedContexts
    consistency: Consistency
    fork_origins: ForkOrigins
    api_keys: KeyStore
    view_reports: ViewReports
    event_streams: EventStreams
    reply_streams: ReplyStreams
    connections: Connections
    comment_seconds: float


class Dependencies(SharedDependencies, frozen=True, kw_only=True):
    """What one request uses. `log`, `stream_log` and `views` read only the data of the caller's tenant.

    They do not check whether the caller may see a conversation, except where `principal_log.py` says so. `stream_log`: the log for
    streams, with connections of its own.
    """

    log: PrincipalLog
    stream_log: PrincipalLog
    views: TenantViews

    @property
    def contexts(self) -> Contexts:
        """Makes the contexts of conversations that `log` reads."""
        return self.shared_contexts.of(self.log)


class ProcessDependencies(SharedDependencies, frozen=True, kw_only=True):
    """What `main.py` makes for the process. `log`, `stream_log` and `views` read the data of all tenants, so a query gets Dependencies instead (`of`).

    `write_pool` is for the readiness check alone.
    """

    log: LogAccess
    stream_log: LogAccess
    views: Database
    redis: Redis
    partition_watch: PartitionWatch
    write_pool: Pool

    def of(self, principal: Principal) -> Dependencies:
        """What a request of this principal uses."""
        shared = {name: getattr(self, name) for name in SharedDependencies.__struct_fields__}
        return Dependencies(
            **shared,
            log=PrincipalLog(self.log, principal),
            stream_log=PrincipalLog(self.stream_log, principal),
            views=TenantViews(self.views, principal.tenant),
        )


class QueryContext(Struct, frozen=True):
    """One request: who sent it, and the minimum position that its answer must show (0: any)."""

    dependencies: Dependencies
    principal: Principal
    min_position: int
    request: Request

    async def read_conversation(self, conversation_id: str, *views: MongoView) -> ConversationRead:
        """Returns once these views are current for the conversation. Raises as `Consistency.read_conversation` does."""
        return await self.dependencies.consistency.read_conversation(
            self.dependencies.log, conversation_id, *views, min_position=self.min_position
        )

    async def forks(self, conversation_id: str) -> tuple[Fork, ...]:
        """Where the conversation was forked, where its origin was forked, and so on; empty if it is no fork. Raises PostgresUnavailable and LogMoved."""
        return await self.dependencies.fork_origins.forks(self.dependencies.log, conversation_id)

    async def read_tenant(self, *views: MongoView) -> Read:
        """Returns once these views are current for all conversations of the caller's tenant. Raises as `Consistency.read_tenant` does."""
        return await self.dependencies.consistency.read_tenant(
            self.principal.tenant, *views, min_position=self.min_position
        )

    async def check_modified(self, conversation_id: str, *, inherits: bool = False) -> None:
        """Raises NotModified if the client has the conversation's version. Use it only for answers that depend on the version and the URL alone. If a client kept an answer with NO_STORE, it may get a 304 although the answer has changed (`not_modified.py`).

        `inherits`: the answer also depends on what a fork inherits. Then nothing is done for a fork. Reads no view. Raises ConversationNotFound and, with `inherits`, LogMoved.
        Does nothing while Postgres is unavailable, or if the request has a minimum position.
        """
        if HEADER not in self.request.headers or self.min_position:
            return
        try:
            head = await self.dependencies.log.existing_head(conversation_id)
            if inherits and await self.forks(conversation_id):
                return
        except PostgresUnavailable:
            return
        tag = etag(head.version)
        if is_unmodified(self.request.headers, tag):
            raise NotModified(tag)

    async def documents(
        self,
        read: Read,
        view: MongoView,
        selection: Selection,
        stages: Sequence[Document] = (),
        batch_size: int | None = None,
        *,
        max_seconds: float | None = None,
    ) -> AsyncCommandCursor[Document]:
        """Runs the stages on the tenant's selected documents, in the collection that the view had when the read started.

        The collection stays complete for this read, even if a rebuilt one replaces it. If it is dropped, `Consistency.check` raises an error,
        so call `check` after the last document. Raises pymongo's ExecutionTimeout after `max_seconds`.
        """
        return await self.dependencies.views.aggregate(
            read.collections[view], selection, stages, batch_size, max_seconds=max_seconds
        )

    def union(self, read: Read, view: MongoView, selection: Selection, stages: Sequence[Document]) -> Document:
        """A stage for `documents`, `read_while` and `aggregate` that adds the result of other stages on the tenant's selected documents."""
        return self.dependencies.views.union(read.collections[view], selection, stages)

    async def find_document(self, read: Read, view: MongoView, document_id: str, *fields: str) -> Document | None:
        """The tenant's document with this id, or only these `fields` of it.

        A large document waits for its turn before it is read (`Connections.large_answer`). Raises as `Consistency.check` does, and
        ApiError (503) when a large document gets no turn.
        """
        selection = Ids([document_id])
        projected: Document = {"$project": {"_id": 0, **dict.fromkeys(fields, 1)}}
        documents = await self.aggregate(read, view, selection, [projected, WITHOUT_LARGE])
        if documents and is_large(documents[0]):
            async with self.dependencies.connections.large_answer(self.principal.tenant):
                documents = await self.aggregate(read, view, selection, [projected])
        return documents[0] if documents else None

    async def read_while(
        self,
        read: Read,
        view: MongoView,
        selection: Selection,
        stages: Sequence[Document],
        take: Callable[[Document], bool],
    ) -> bool:
        """Runs the stages on the tenant's selected documents. Calls `take` with each resulting document, until `take` returns False.

        Returns True if `take` accepted all of them. At most BATCH_DOCUMENTS more are read after the one that `take` refused. Raises as
        `Consistency.check` does.
        """
        all_stages = [*stages, with_positions(read.position_keys)]
        position_documents: list[Document] = []
        async with await self.documents(read, view, selection, all_stages, BATCH_DOCUMENTS) as cursor:
            while batch := await cursor.to_list(BATCH_DOCUMENTS):
                for document in batch:
                    if "_id" in document:
                        position_documents.append(document)
                    elif not take(document):
                        await self.dependencies.consistency.check(read)  # reads the positions again
                        return False
        await self.dependencies.consistency.check(read, positions_from(position_documents))
        return True

    async def aggregate(
        self,
        read: Read,
        view: MongoView,
        selection: Selection,
        stages: Sequence[Document],
        max_seconds: float | None = None,
    ) -> list[Document]:
        """Runs the stages on the tenant's selected documents. Returns the resulting documents, which have no `_id`.

        Raises as `Consistency.check` does, and pymongo's ExecutionTimeout after `max_seconds`.
        """
        all_stages = [*stages, with_positions(read.position_keys)]
        cursor = await self.documents(read, view, selection, all_stages, max_seconds=max_seconds)
        documents = await cursor.to_list()
        positions = positions_from(document for document in documents if "_id" in document)
        await self.dependencies.consistency.check(read, positions)
        return [document for document in documents if "_id" not in document]
