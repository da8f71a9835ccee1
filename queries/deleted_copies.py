"""Finds which items of an answer are copies of deleted items of other conversations. The view `items` does not know this.

Only the log knows whether the other conversation still has the item. So an answer with copies needs one look-up. Such an answer may also
change while the conversation's version stays the same, so it is sent with `NO_STORE`. A list of conversations is sent without it, because it has no ETag.
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
    """The copies whose originals are deleted, and the inherited items that are deleted. `inherited_by`: as in `deleted_items`. If Postgres is unavailable and the read is unverified, none are returned, so all copies are shown. If the read is verified, raises PostgresUnavailable."""
    try:
        return await deleted_items(context.dependencies.log, copies, inherited_by)
    except PostgresUnavailable:
        if read.verified:
            raise
        return frozenset()


def input_ids(document: Document) -> list[str]:
    """The ids of a response's input items."""
    return [_id_decoder.decode(item.encode()).id for item in document["input"]]


async def deleted_input(context: QueryContext, read: Read, documents: Collection[Document]) -> frozenset[str]:
    """The ids of the responses' input items that are deleted now. `read` must cover the view `items` too."""
    item_ids = [item_id for document in documents for item_id in input_ids(document)]
    retracted: list[Document] = []
    if item_ids:
        stages: list[Document] = [{"$match": {"retracted_version": {"$ne": None}}}, {"$project": {"_id": 0, "id": 1}}]
        retracted = await context.aggregate(read, "items", Ids(item_ids), stages)
    copies = {item_id: original for document in documents for item_id, original in document.get("copies", ())}
    return await deleted_copies(context, read, copies) | {document["id"] for document in retracted}
