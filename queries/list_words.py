"""The first and the last words of conversations, for lists.

Inherited and deleted messages, and messages without text, do not count. Only the active path counts. The view
`conversations` has the ids of the items that usually have the words. The path is searched only if such an item is
missing or has no words. The words of a copy are not shown if its original is deleted.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from projections.views.writes import Document
from queries.consistency import Read
from queries.deleted_copies import deleted_copies
from queries.query_context import QueryContext
from queries.tenant_views import Ids

FIELDS = ("items", "head", "first", "path")
MAX_SEARCHED = 200
"""How many items are searched, from each end of the path."""

MAX_BRANCHES = 20
"""How many branches are searched, from each end of the path."""

End = Literal["first", "last"]
ENDS: tuple[End, End] = ("first", "last")
_PROJECT: Document = {
    "$project": {"_id": 0, "id": 1, "conversation_id": 1, "retracted_version": 1, "role": 1, "preview": 1, "copy_of": 1}
}
_WITH_WORDS: Document = {"retracted_version": None, "role": {"$ne": None}, "preview": {"$ne": ""}}


class Words(Struct, frozen=True):
    """The words of one conversation. `has_copies`: one of the two items is a copy, deleted or not."""

    first: str | None = None
    last: str | None = None
    has_copies: bool = False


async def words_of(context: QueryContext, read: Read, documents: Sequence[Document]) -> dict[str, Words]:
    """The words by conversation id. `read` must cover the view `items` too.

    Raises as `Consistency.check` and `deleted_copies` do.
    """
    wanted = {(document["id"], end): item_id for document in documents for end, item_id in _usual_items(document)}
    found: dict[tuple[str, End], Document] = {}
    if wanted:
        items = await context.aggregate(read, "items", Ids([*{*wanted.values()}]), [_PROJECT])
        by_id = {item["id"]: item for item in items}
        found = {
            end: item
            for end, item_id in wanted.items()
            if (item := by_id.get(item_id)) is not None and item["conversation_id"] == end[0] and _has_words(item)
        }
    missing = [
        (document, end)
        for document in documents
        if document["items"]
        for end in ENDS
        if (document["id"], end) not in found
    ]
    searched = await asyncio.gather(*(_search(context, read, document, end) for document, end in missing))
    found |= {(document["id"], end): item for (document, end), item in zip(missing, searched, strict=True) if item}
    copies = {item["id"]: item["copy_of"] for item in found.values() if "copy_of" in item}
    deleted = await deleted_copies(context, read, copies) if copies else frozenset()

    def of(document: Document) -> Words:
        ends = [found.get((document["id"], "first")), found.get((document["id"], "last"))]
        first, last = (None if item is None or item["id"] in deleted else item["preview"] for item in ends)
        return Words(first, last, has_copies=any(item is not None and item["id"] in copies for item in ends))

    return {document["id"]: of(document) for document in documents}


def _usual_items(document: Document) -> Iterator[tuple[End, str]]:
    branch, last_depth, *_ = _path(document)[0]
    if (
        document.get("first") is not None and branch == 0 and last_depth != 0
    ):  # last depth 0: the path leaves branch 0 before the first item of the branch
        yield "first", document["first"]
    if document["head"] is not None:
        yield "last", document["head"]


def _has_words(item: Mapping[str, Any]) -> bool:
    return item["retracted_version"] is None and item["role"] is not None and item["preview"] != ""


async def _search(context: QueryContext, read: Read, document: Document, end: End) -> Document | None:
    path = _path(document)
    branches = path[:MAX_BRANCHES] if end == "first" else path[-MAX_BRANCHES:]
    bounds = [
        {"branch": branch} if last_depth is None else {"branch": branch, "depth": {"$lte": last_depth}}
        for branch, last_depth, *_ in branches
    ]
    stages: list[Document] = [
        {"$sort": {"depth": 1 if end == "first" else -1}},
        {"$limit": MAX_SEARCHED},
        {"$match": _WITH_WORDS},
        {"$limit": 1},
        _PROJECT,
    ]
    where = {"conversation_id": document["id"], "$or": bounds}
    items = await context.aggregate(read, "items", where, stages)
    return items[0] if items else None


def _path(document: Document) -> Sequence[Sequence[Any]]:
    """(branch, last depth, …) of each branch. The last depth is None if the path follows the branch to its end."""
    return document.get("path") or [(0, None)]
