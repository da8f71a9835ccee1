"""Compares the views in MongoDB with a fold of the log, at the same position."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.event_log.reader import EventReader
from infrastructure.ids import CONVERSATION, is_id
from infrastructure.stores.mongodb import Database
from projections.fold import Fold
from projections.views.catalog import ALL_VIEWS, CONVERSATION_VIEWS, POSITIONS_COLLECTION, USAGE, MongoView
from projections.views.event_writes import event_writes
from projections.views.partitions import partition_of, position_key
from projections.views.usage import USAGE_EVENTS
from projections.views.view_position import Parked, ViewPosition, position_from
from projections.views.writes import Document, document_key
from scripts.verification.differences import Difference, documents_that_differ
from scripts.verification.streams import Stream


class Moment(Struct, frozen=True):
    """All reads in the session see the same moment. `view_positions`: the view positions by `position_key`."""

    session: AsyncClientSession
    view_positions: dict[str, ViewPosition]

    def position(self, view: str, conversation_id: str) -> int:
        view_position = self.view_positions.get(position_key(view, partition_of(conversation_id)))
        return view_position.position if view_position else 0

    def collection(self, view: str) -> str:
        view_position = self.view_positions.get(position_key(view, 0))
        return view_position.collection if view_position else view

    def parked(self, view: str, conversation_id: str) -> Parked | None:
        view_position = self.view_positions.get(position_key(view, partition_of(conversation_id)))
        return view_position.parked.get(conversation_id) if view_position else None


@asynccontextmanager
async def moment(database: Database) -> AsyncIterator[Moment]:
    async with database.client.start_session(snapshot=True) as session:
        documents = database[POSITIONS_COLLECTION].find({"view": {"$in": ALL_VIEWS}}, session=session)
        yield Moment(session, {document["_id"]: position_from(document) async for document in documents})


class Totals:
    """Compares the view `usage` with the totals of all conversations. Add each conversation, then call `differences`."""

    def __init__(self, at: Moment, found: Mapping[str, Document]) -> None:
        self._at = at
        self._found = found
        self._folded = Fold()

    def add(self, stream: Stream) -> None:
        """Of a parked conversation, only the events before the parked event count."""
        parked = self._at.parked(USAGE, stream.conversation_id)
        position = self._at.position(USAGE, stream.conversation_id)
        shown = position if parked is None else min(position, parked.position - 1)
        for recorded in stream.events:
            if isinstance(recorded.event, USAGE_EVENTS) and recorded.position <= shown:
                for write in event_writes(recorded):
                    if write.view == USAGE:
                        self._folded.write(write)

    def differences(self) -> Iterator[Difference]:
        """Positions are not compared."""
        expected = self._folded.documents[USAGE]
        yield from documents_that_differ(USAGE, _without_positions(expected), _without_positions(self._found))

    @property
    def count(self) -> int:
        return len(self._found)


class Views:
    """At the end, call `not_in_log`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: set[tuple[str, str]] = set()
        self.documents: dict[str, int] = dict.fromkeys(CONVERSATION_VIEWS, 0)

    async def compare(self, streams: Sequence[Stream], at: Moment) -> AsyncIterator[Difference]:
        """If a view has parked a conversation, the view's documents of this conversation are not compared."""
        self._seen.update((stream.tenant, stream.conversation_id) for stream in streams)
        for stream in streams:
            for view in ALL_VIEWS:
                if (parked := at.parked(view, stream.conversation_id)) is not None:
                    yield _parked(view, stream.conversation_id, parked)
        streams = [stream for stream in streams if stream.readable]
        consistent: list[Stream] = []
        expected: dict[MongoView, dict[str, Document]] = {view: {} for view in CONVERSATION_VIEWS}
        for stream in streams:
            try:
                folded = _folded(stream, at)
            except ValueError as error:
                yield Difference(
                    "log", "unreadable", stream.conversation_id, note=f"its events contradict each other: {error}"
                )
                continue
            consistent.append(stream)
            for view, documents in folded.items():
                if view in CONVERSATION_VIEWS and at.parked(view, stream.conversation_id) is None:
                    expected[view] |= documents
        for view in CONVERSATION_VIEWS:
            shown = [stream for stream in consistent if at.parked(view, stream.conversation_id) is None]
            found = {document["_id"]: document async for document in self._found(view, shown, at)}
            self.documents[view] += len(found)
            for difference in documents_that_differ(view, expected[view], found):
                yield difference

    async def totals(self) -> Totals:
        async with moment(self._database) as at:
            collection = self._database[at.collection(USAGE)]
            return Totals(at, {document["_id"]: document async for document in collection.find(session=at.session)})

    async def not_in_log(self, at: Moment, reader: EventReader) -> AsyncIterator[Difference]:
        """Also finds parked entries of conversations that were not compared."""
        for view_position in at.view_positions.values():
            for conversation_id, parked in view_position.parked.items():
                if (parked.tenant, conversation_id) not in self._seen:
                    yield _parked(view_position.view, conversation_id, parked)
        for view in CONVERSATION_VIEWS:
            async for tenant, conversation_id, count in self._conversations(view, at):
                if (tenant, conversation_id) in self._seen or await _is_known(reader, tenant, conversation_id):
                    continue
                note = f"{count} documents of a conversation that the log of tenant {tenant} does not have"
                yield Difference(view, "extra", str(conversation_id), note=note)

    async def _found(self, view: MongoView, streams: Sequence[Stream], at: Moment) -> AsyncIterator[Document]:
        by_tenant: defaultdict[str, list[str]] = defaultdict(list)
        for stream in streams:
            by_tenant[stream.tenant].append(stream.conversation_id)
        for tenant, conversation_ids in by_tenant.items():
            if view == "conversations":
                where: dict[str, Any] = {
                    "_id": {"$in": [document_key(tenant, conversation_id) for conversation_id in conversation_ids]}
                }
            else:
                where = {"tenant": tenant, "conversation_id": {"$in": conversation_ids}}
            async for document in self._database[at.collection(view)].find(where, session=at.session, batch_size=2_000):
                yield document

    async def _conversations(self, view: MongoView, at: Moment) -> AsyncIterator[tuple[Any, Any, int]]:
        """(tenant, conversation id, number of documents)."""
        if view == "conversations":
            async for document in self._database[at.collection(view)].find({}, {"_id": 1}, session=at.session):
                tenant, _, conversation_id = str(document["_id"]).rpartition(":")
                yield tenant, conversation_id, 1
            return
        group = {"_id": {"tenant": "$tenant", "conversation_id": "$conversation_id"}, "count": {"$sum": 1}}
        stages: list[dict[str, Any]] = [{"$sort": {"tenant": 1, "conversation_id": 1}}, {"$group": group}]
        async for row in await self._database[at.collection(view)].aggregate(stages, session=at.session):
            yield row["_id"].get("tenant"), row["_id"].get("conversation_id"), row["count"]


def _without_positions(documents: Mapping[str, Document]) -> dict[str, Document]:
    return {key: {**document, "position": 0} for key, document in documents.items()}


def _parked(view: str, conversation_id: str, parked: Parked) -> Difference:
    note = f"{parked.topic} cannot be applied: {parked.message or parked.error}"
    return Difference(view, "parked", conversation_id, version=parked.version, note=note)


def _folded(stream: Stream, at: Moment) -> Mapping[MongoView, dict[str, Document]]:
    """The documents that each view must have at its position. Raises ValueError if an event does not fit."""
    folded = Fold()
    for recorded in stream.events:
        for write in event_writes(recorded):
            if recorded.position <= at.position(write.view, stream.conversation_id):
                folded.write(write)
    return folded.documents


async def _is_known(reader: EventReader, tenant: Any, conversation_id: Any) -> bool:
    """Whether the log has the conversation, which may have started during the verification."""
    if not isinstance(conversation_id, str) or not is_id(conversation_id, CONVERSATION):
        return False
    head = await reader.head(conversation_id)
    return head is not None and head.tenant == tenant
