"""What answers add to an item: when and by whom it was added, the model that made it, and its place among its siblings.

Siblings are the items with the same parent: one continues the parent's branch, and each of the others opens a branch. Deleted items do not count.
In a fork, one of them may be inherited. Branches of an origin that the fork does not inherit do not count.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from context.conversation_settings import unretracted
from projections.views.items import item_ranges
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.deleted_copies import deleted_copies
from queries.inherited_items import path_along
from queries.query_context import QueryContext

ADDED_FROM = (
    "id",
    "conversation_id",
    "parent",
    "parent_branch",
    "branch",
    "depth",
    "version",
    "created_at",
    "author",
    "model",
    "own_fields",
)
"""The fields of an item's document that `additions` needs."""


class Siblings(Struct, frozen=True):
    """`count`: how many siblings there are, including this item. `index`: its place among them in the order of their versions, from 0."""

    index: int
    count: int


class Added(Struct, frozen=True):
    """The fields that are added to an item. `created_at`: in seconds since 1970."""

    created_at: int
    author: str
    model: str | UnsetType = UNSET
    siblings: Siblings | UnsetType = UNSET


def unretracted_at(version: int) -> Document:
    """The filter for items that were not retracted at this version. It also matches items that were restored later: `retracted_then` finds those that were retracted."""
    return {"$nor": [{"retracted_version": {"$lte": version}, "restored_version": {"$not": {"$gt": version}}}]}


async def retracted_then(read: ConversationRead, restored: Sequence[str], version: int) -> set[str]:
    """Which of the items `restored`, which were restored after `version`, were retracted at `version`. Only the log knows."""
    if not restored:
        return set()
    return set(restored) - (await unretracted(read.log, read.conversation_id, version, restored)).keys()


def with_added(item: bytes, added: Added | None) -> bytes:
    """The item's JSON with these fields."""
    return item if added is None else item[:-1] + b"," + msgspec.json.encode(added)[1:]


async def additions(
    context: QueryContext, read: ConversationRead, documents: Sequence[Document], version: int
) -> list[Added | None]:
    """The fields that are added to these items at this version of the conversation. None if the item has such a field of its own."""
    siblings = await _siblings(context, read, documents, version) if read.moved_at and documents else {}
    return [
        None
        if "own_fields" in document
        else Added(
            document["created_at"] // 1_000_000,
            document["author"],
            document.get("model", UNSET),
            siblings.get(document["id"], UNSET),
        )
        for document in documents
    ]


_Order = tuple[bool, int]
"""Siblings are sorted by this: an inherited item comes first, then the others by version."""


def _order(read: ConversationRead, document: Document) -> _Order:
    return document["conversation_id"] == read.conversation_id, document["version"]


async def _siblings(
    context: QueryContext, read: ConversationRead, documents: Sequence[Document], version: int
) -> Mapping[str, Siblings]:
    """By item id, the siblings of each of these items. An item without siblings is left out."""
    own = {
        "tenant": read.tenant,
        "conversation_id": read.conversation_id,
        "version": {"$lte": version},
        **unretracted_at(version),
    }
    parents = {"$in": [document["parent"] for document in documents]}
    selections: list[Document] = [{**own, "parent": parents, "parent_branch": {"$exists": True}}]
    continued = [
        (document["parent_branch"], document["depth"])
        for document in documents
        if document["conversation_id"] == read.conversation_id and "parent_branch" in document
    ]
    if continued:
        # One filter for all of them: MongoDB plans each filter of an `$or` on its own.
        on_branches = {
            "branch": {"$in": [branch for branch, _ in continued]},
            "depth": {"$in": [depth for _, depth in continued]},
        }
        selections.append({**own, **on_branches, "parent": parents})
        selections += [part for branch, depth in continued if branch == 0 for part in _inherited(read, version, depth)]
    groups = await context.aggregate(
        read,
        "items",
        {"$or": selections},
        [_by_parent(read), {"$project": {"_id": 0, "parent": "$_id", "versions": 1, "others": 1}}],
    )
    orders: dict[str | None, set[_Order]] = {
        group["parent"]: {(True, sibling) for sibling in group["versions"]} for group in groups
    }
    found: list[Document] = [{**each, "parent": group["parent"]} for group in groups for each in group["others"]]
    inherited = {each["id"] for each in found if each["conversation_id"] != read.conversation_id}
    elsewhere = {each["id"]: each.get("copy_of") for each in found if "copy_of" in each or each["id"] in inherited}
    deleted = await deleted_copies(context, read, elsewhere, [read.conversation_id, *read.origins])
    restored = [
        each["id"] for each in found if each.get("restored_version", 0) > version and each["id"] not in inherited
    ]
    deleted |= await retracted_then(read, restored, version)
    for each in [*documents, *(each for each in found if each["id"] not in deleted)]:
        orders.setdefault(each["parent"], set()).add(_order(read, each))
    return {
        document["id"]: Siblings(sorted(those).index(_order(read, document)), len(those))
        for document in documents
        if len(those := orders[document["parent"]]) > 1
    }


def _by_parent(read: ConversationRead) -> Document:
    """The stage that gathers siblings by their parent: the `versions` of the plain ones, and the fields of the `others`.

    `others` are inherited items, copies, and items that were restored: the view alone does not tell whether they are deleted.

    There may be thousands of siblings, so MongoDB does not send a document for each.
    """
    is_plain = {
        "$and": [
            {"$eq": ["$conversation_id", read.conversation_id]},
            {"$eq": [{"$type": "$copy_of"}, "missing"]},
            {"$eq": [{"$type": "$restored_version"}, "missing"]},
        ]
    }
    fields = ("id", "conversation_id", "version", "copy_of", "restored_version")
    other = {field: f"${field}" for field in fields}
    return {
        "$group": {
            "_id": "$parent",
            "versions": {"$push": {"$cond": [is_plain, "$version", "$$REMOVE"]}},
            "others": {"$push": {"$cond": [is_plain, "$$REMOVE", other]}},
        }
    }


def _inherited(read: ConversationRead, version: int, depth: int) -> list[Document]:
    """Filters for the item at this depth that a fork inherits, if it inherits one. Branch 0 begins with the inherited items."""
    ranges = item_ranges(path_along(read, version))[:-1]
    return [part.filter(read.tenant) for items in ranges if (part := items.within(depth, depth)) is not None]
