"""Finds copies whose originals in other conversations are deleted. Only the log knows this.

An answer with copies may change while the conversation's version stays the same. If such an answer has an
ETag, it is sent with `NO_STORE`.
"""

from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct

from context.deleted_content import deleted_items
from projections.views.writes import Document
from queries.consistency import Read
from queries.log_access import PostgresUnavailable
from queries.query_context import QueryContext
from queries.tenant_views import Ids


class _WithId(Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_WithId)


async def deleted_copies(
    context: QueryContext, read: Read, copies: Mapping[str, str | None], inherited_by: Collection[str] = ()
) -> frozenset[str]:
    """Which of these copies and inherited items are deleted. `copies`: each item with its original, or None.

    Without Postgres, an unverified read gets an empty set. A verified read gets PostgresUnavailable.
    """
    try:
        return await deleted_items(context.dependencies.log, copies, inherited_by)
    except PostgresUnavailable:
        if read.verified:
            raise
        return frozenset()


def input_ids(document: Document) -> list[str]:
    return [_id_decoder.decode(item.encode()).id for item in document["input"]]


async def deleted_input(context: QueryContext, read: Read, documents: Collection[Document]) -> frozenset[str]:
    """The ids of the deleted input items. `read` must cover the view `items` too."""
    item_ids = [item_id for document in documents for item_id in input_ids(document)]
    retracted: list[Document] = []
    if item_ids:
        stages: list[Document] = [{"$match": {"retracted_version": {"$ne": None}}}, {"$project": {"_id": 0, "id": 1}}]
        retracted = await context.aggregate(read, "items", Ids(item_ids), stages)
    copies = {item_id: original for document in documents for item_id, original in document.get("copies", ())}
    return await deleted_copies(context, read, copies) | {document["id"] for document in retracted}
