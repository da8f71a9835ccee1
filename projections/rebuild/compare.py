"""Compares a view's live collection with its second build, in one MongoDB snapshot."""

from collections.abc import AsyncIterator
from hashlib import sha256

import msgspec
from msgspec import Struct
from pymongo.asynchronous.client_session import AsyncClientSession

from infrastructure.stores.mongodb import Database, Document
from projections.coalesce import conversation_of
from projections.position_advance import PositionMoved
from projections.rebuild.view_builds import BuildGone
from projections.views.catalog import POSITIONS_COLLECTION, USAGE, MongoView
from projections.views.partitions import position_keys
from projections.views.view_position import BUILD_SUFFIX, ViewPosition, position_from

BATCH_DOCUMENTS = 5_000
MAX_LISTED_DIFFERENCES = 20

_encoder = msgspec.json.Encoder(order="sorted", enc_hook=int)  # MongoDB's own type of long integers becomes int


class Comparison(Struct, kw_only=True):
    """The result of a comparison at `position`, without documents of parked conversations.

    `documents`: how many documents the build has
    `different`: how many documents differ, or are in only one of the two collections
    `listed`: the `_id`s of the first different documents

    A digest is the SHA-256 over the documents in order of `_id`, as JSON with sorted keys. While a conversation
    is parked, `usage` is not compared, and its digests are empty.
    """

    view: MongoView
    position: int
    documents: int = 0
    different: int = 0
    listed: list[str] = []
    live_digest: str = ""
    build_digest: str = ""


async def compare(database: Database, view: MongoView) -> Comparison:
    """Raises PositionMoved if the positions of the view and its build differ, BuildGone, and PyMongoError."""
    async with database.client.start_session(snapshot=True) as session:
        by_key = {document["_id"]: document async for document in database[POSITIONS_COLLECTION].find(session=session)}
        live_keys, build_keys = position_keys([view]), position_keys([f"{view}{BUILD_SUFFIX}"])
        if not by_key.keys() >= {*live_keys, *build_keys}:
            raise BuildGone(view)
        live, build = [by_key[key] for key in live_keys], [by_key[key] for key in build_keys]
        if not all(map(ViewPosition.shows_same_log_part, map(position_from, live), map(position_from, build))):
            raise PositionMoved((view,), live[0]["position"])
        parked = {conversation for document in (*live, *build) for conversation in document.get("parked", {})}
        comparison = Comparison(view=view, position=max(document["position"] for document in live), listed=[])
        if view != USAGE or not parked:
            await _compare_documents(
                comparison,
                _documents(database, live[0]["collection"], session, parked),
                _documents(database, build[0]["collection"], session, parked),
            )
    return comparison


async def _compare_documents(
    comparison: Comparison, live: AsyncIterator[Document], build: AsyncIterator[Document]
) -> None:
    live_digest, build_digest = sha256(), sha256()
    next_live, next_build = await anext(live, None), await anext(build, None)
    while next_live is not None or next_build is not None:
        key = min(document["_id"] for document in (next_live, next_build) if document is not None)
        in_live = next_live if next_live is not None and next_live["_id"] == key else None
        in_build = next_build if next_build is not None and next_build["_id"] == key else None
        if in_live is not None:
            live_digest.update(_encoder.encode(in_live))
            next_live = await anext(live, None)
        if in_build is not None:
            comparison.documents += 1
            build_digest.update(_encoder.encode(in_build))
            next_build = await anext(build, None)
        if in_live != in_build:
            comparison.different += 1
            if len(comparison.listed) < MAX_LISTED_DIFFERENCES:
                comparison.listed.append(key)
    comparison.live_digest, comparison.build_digest = live_digest.hexdigest(), build_digest.hexdigest()


async def _documents(
    database: Database, collection: str, session: AsyncClientSession, parked: set[str]
) -> AsyncIterator[Document]:
    async for document in database[collection].find(session=session, batch_size=BATCH_DOCUMENTS).sort("_id", 1):
        if conversation_of(document)[1] not in parked:
            yield document
