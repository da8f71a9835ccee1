"""What every query receives: the caller, the minimum position of its answer, and the stores to read from."""

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
from infrastructure.contents.file_store import FileStore
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
"""A batch holds a page of the default length and the positions of a view."""

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
"""Replaces documents of more than MAX_SMALL_DOCUMENT_BYTES with `{is_large: true}`."""


def is_large(document: Document) -> bool:
    return "is_large" in document


class SharedDependencies(Struct, frozen=True, kw_only=True):
    """What all requests share.

    `connections`: where large answers wait for their turn. `comment_seconds`: after this long without events, a stream
      sends a comment.
    """

    provider: "ModelProvider"
    models: Models
    shared_contexts: SharedContexts
    consistency: Consistency
    fork_origins: ForkOrigins
    api_keys: KeyStore
    files: FileStore
    view_reports: ViewReports
    event_streams: EventStreams
    reply_streams: ReplyStreams
    connections: Connections
    comment_seconds: float


class Dependencies(SharedDependencies, frozen=True, kw_only=True):
    """What one request uses. `stream_log` has its own connections.

    `log`, `stream_log` and `views` have only data of the caller's tenant. But they do not check whether the caller may
    see a conversation, except where `principal_log.py` says so.
    """

    log: PrincipalLog
    stream_log: PrincipalLog
    views: TenantViews

    @property
    def contexts(self) -> Contexts:
        return self.shared_contexts.of(self.log)


class ProcessDependencies(SharedDependencies, frozen=True, kw_only=True):
    """What `main.py` makes for the process, with data of all tenants. `write_pool` is for the readiness check alone."""

    log: LogAccess
    stream_log: LogAccess
    views: Database
    redis: Redis
    partition_watch: PartitionWatch
    write_pool: Pool

    def of(self, principal: Principal) -> Dependencies:
        shared = {name: getattr(self, name) for name in SharedDependencies.__struct_fields__}
        return Dependencies(
            **shared,
            log=PrincipalLog(self.log, principal),
            stream_log=PrincipalLog(self.stream_log, principal),
            views=TenantViews(self.views, principal.tenant),
        )


class QueryContext(Struct, frozen=True):
    """What a query receives. `min_position`: 0 if the request has none."""

    dependencies: Dependencies
    principal: Principal
    min_position: int
    request: Request

    async def read_conversation(self, conversation_id: str, *views: MongoView) -> ConversationRead:
        """Raises as `Consistency.read_conversation` does."""
        return await self.dependencies.consistency.read_conversation(
            self.dependencies.log, conversation_id, *views, min_position=self.min_position
        )

    async def forks(self, conversation_id: str) -> tuple[Fork, ...]:
        """Raises PostgresUnavailable and LogMoved."""
        return await self.dependencies.fork_origins.forks(self.dependencies.log, conversation_id)

    async def read_tenant(self, *views: MongoView) -> Read:
        """Raises as `Consistency.read_tenant` does."""
        return await self.dependencies.consistency.read_tenant(
            self.principal.tenant, *views, min_position=self.min_position
        )

    async def check_modified(self, conversation_id: str, *, inherits: bool = False) -> None:
        """Raises NotModified if the client has the conversation's version. Does nothing without Postgres, or with a
        minimum position.

        Only for answers that depend on the version and the URL alone. `inherits`: the answer also shows inherited
        items. Then a fork is not checked. Raises ConversationNotFound and, with `inherits`, LogMoved.
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
        """Reads the collection that the view had when the read started.

        A rebuild may drop this collection, so call `Consistency.check` after the last document. Raises pymongo's
        ExecutionTimeout after `max_seconds`.
        """
        return await self.dependencies.views.aggregate(
            read.collections[view], selection, stages, batch_size, max_seconds=max_seconds
        )

    def union(self, read: Read, view: MongoView, selection: Selection, stages: Sequence[Document]) -> Document:
        return self.dependencies.views.union(read.collections[view], selection, stages)

    async def find_document(self, read: Read, view: MongoView, document_id: str, *fields: str) -> Document | None:
        """A large document waits for its turn. Raises as `Consistency.check` does, and ApiError (503) when it gets no
        turn.
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
        *,
        check: bool = True,
    ) -> bool:
        """Calls `take` with each document, until `take` returns False. Returns True if `take` accepted all.

        Raises as `Consistency.check` does. With `check=False`, a later part of the same read must check it.
        """
        all_stages = [*stages, with_positions(read.position_keys)] if check else stages
        position_documents: list[Document] = []
        async with await self.documents(read, view, selection, all_stages, BATCH_DOCUMENTS) as cursor:
            while batch := await cursor.to_list(BATCH_DOCUMENTS):
                for document in batch:
                    if "_id" in document:
                        position_documents.append(document)
                    elif not take(document):
                        if check:
                            await self.dependencies.consistency.check(read)  # reads the positions again
                        return False
        if check:
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
        """The resulting documents, which have no `_id`.

        Raises as `Consistency.check` does, and pymongo's ExecutionTimeout after `max_seconds`.
        """
        all_stages = [*stages, with_positions(read.position_keys)]
        cursor = await self.documents(read, view, selection, all_stages, max_seconds=max_seconds)
        documents = await cursor.to_list()
        positions = positions_from(document for document in documents if "_id" in document)
        await self.dependencies.consistency.check(read, positions)
        return [document for document in documents if "_id" not in document]
