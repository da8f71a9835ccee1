"""GET /v1/conversations/{id}/tree: all items of a conversation, on all its branches, with a few fields of each.

Nodes are sorted by depth and then by branch. A page is merged from branch 0, which includes the inherited items, and
the other branches.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from heapq import merge
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field, field_validator
from starlette.responses import Response

from domain.paths import Path
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import Seconds
from infrastructure.ids import is_id
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.deleted_copies import deleted_copies
from queries.inherited_items import path_along, read_with_origins, retracted_in_forks
from queries.item_additions import retracted_then
from queries.item_paths import PLACE_FIELDS, AsOfQuery, Bounds, ItemPlace, active_path, filters, find_place
from queries.not_modified import NO_STORE
from queries.paging import unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route

router = APIRouter(tags=["items"])

DEFAULT_LIMIT = 100
MAX_LIMIT = 200

_FIELDS = (
    *PLACE_FIELDS,
    "id",
    "parent",
    "role",
    "type",
    "preview",
    "created_at",
    "retracted_version",
    "copy_of",
    "restored_version",
    "positive",
    "negative",
)
_IN_ORDER = {"depth": 1, "branch": 1}


class NodeFeedback(Struct, frozen=True):
    """How many people rated the item up and down, as of now."""

    positive: int
    negative: int


class TreeNode(Struct, frozen=True, kw_only=True, tag_field="object", tag="tree.node"):
    """An item of the conversation.

    `parent`: the id of the item before it; null for a first item. `branch`: the number of its branch. `depth`: 1 for a first item.
    `preview`: the beginning of its text, at most 80 characters; absent with `retracted` or `blanked`. `retracted`: present if the item was already
    deleted at the version that is read. `blanked`: present if it was deleted later, and the caller lacks the scope `audit`.
    """

    id: str
    parent: str | None
    branch: int
    depth: int
    role: Annotated[str | None, msgspec.Meta(description="The role of a message. Null for other items.")]
    type: str
    created_at: Seconds
    preview: str | UnsetType = UNSET
    retracted: bool | UnsetType = UNSET
    blanked: bool | UnsetType = UNSET
    feedback: NodeFeedback


class Tree(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of nodes. `active_leaf`: the id of the last item of the active path; null if the path has no items."""

    data: list[TreeNode]
    active_leaf: str | None
    has_more: bool


class TreeQuery(AsOfQuery):
    after: str | None = Field(None, description="The id of the node that the page begins after.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)

    @field_validator("after")
    @classmethod
    def _is_id(cls, after: str | None) -> str | None:
        if after is not None and not is_id(after):
            raise ApiError(400, "`after` is not an id of this store.", code="invalid_id", param="after")
        return after


@query_route(
    router,
    "/v1/conversations/{conversation_id}/tree",
    TreeQuery,
    answer=Tree,
    answer_headers=CONVERSATION_HEADERS,
)
async def get_tree(context: QueryContext, conversation_id: str, query: TreeQuery) -> Response:
    """A page of the items on all branches, by depth, with a preview of each. Deleted items are in it too, without a preview.

    The tree of a fork begins with the path that it inherits.
    """
    if query.after is None and query.as_of is None:
        await context.check_modified(conversation_id, inherits=True)
    read = await read_with_origins(context, conversation_id, "items", "feedback")
    version = query.version(read)
    after = None if query.after is None else await find_place(context, read, query.after)
    if query.after is not None and after is None:
        raise unknown_cursor("after", "an item of this conversation")
    trunk = path_along(read, version)
    on_trunk, elsewhere, active_leaf = await asyncio.gather(
        _on_trunk(context, read, trunk, after, query.limit),
        _elsewhere(context, read, version, after, query.limit),
        _last_item(context, read, await active_path(read, version)),
    )
    found = [*merge(on_trunk, elsewhere, key=lambda document: (document["depth"], document["branch"]))]
    documents = found[: query.limit]
    await _count_own_feedback(context, read, documents)
    deleted = await _deleted(context, read, trunk, documents)
    retracted = deleted if query.as_of is None else await _retracted_then(read, trunk, documents)
    blanked = frozenset() if context.principal.may("audit") else deleted - retracted
    tree = Tree(
        data=[_node(document, document["id"] in retracted, document["id"] in blanked) for document in documents],
        active_leaf=active_leaf,
        has_more=len(found) > query.limit,
    )
    changes_elsewhere = read.forks or any("copy_of" in document for document in documents)
    if not tree.has_more:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(tree, headers={**read.headers, **(NO_STORE if changes_elsewhere else {})})


async def _on_trunk(
    context: QueryContext, read: ConversationRead, path: Path, after: ItemPlace | None, limit: int
) -> list[Document]:
    """At most `limit` + 1 nodes of the trunk."""
    bounds = Bounds() if after is None else Bounds(min_depth=after.depth + 1)
    found: list[Document] = []
    for selection in filters(read.tenant, path, bounds, ascending=True, count=limit + 1):
        found += await _nodes(context, read, selection, limit)
        if len(found) > limit:
            break
    # An inherited item may lie on another branch of its conversation.
    return [{**document, "branch": 0} for document in found[: limit + 1]]


async def _elsewhere(
    context: QueryContext, read: ConversationRead, version: int, after: ItemPlace | None, limit: int
) -> list[Document]:
    """At most `limit` + 1 nodes of other branches."""
    if not read.moved_at:
        return []
    where: Document = {"conversation_id": read.conversation_id, "version": {"$lte": version}}
    if after is None:
        return await _nodes(context, read, {**where, "branch": {"$gt": 0}}, limit)
    selection = [
        {"depth": after.depth, "branch": {"$gt": after.branch}},
        {"depth": {"$gt": after.depth}, "branch": {"$gt": 0}},
    ]
    return await _nodes(context, read, {**where, "branch": {"$gt": 0}, "$or": selection}, limit)


async def _nodes(context: QueryContext, read: ConversationRead, selection: Document, limit: int) -> list[Document]:
    stages: list[Document] = [
        {"$sort": _IN_ORDER},
        {"$limit": limit + 1},
        {"$project": {"_id": 0, **dict.fromkeys(_FIELDS, 1)}},
    ]
    return await context.aggregate(read, "items", selection, stages)


async def _last_item(context: QueryContext, read: ConversationRead, path: Path) -> str | None:
    """The id of the path's last item, retracted or not."""
    stages: list[Document] = [{"$sort": {"depth": -1}}, {"$limit": 1}, {"$project": {"_id": 0, "id": 1}}]
    for selection in filters(read.tenant, path, Bounds(), ascending=False, count=1):
        if found := await context.aggregate(read, "items", selection, stages):
            return str(found[0]["id"])
    return None


async def _count_own_feedback(context: QueryContext, read: ConversationRead, documents: Sequence[Document]) -> None:
    """For inherited items, counts the feedback in this conversation."""
    inherited = {
        document["id"]: document for document in documents if document["conversation_id"] != read.conversation_id
    }
    if not inherited:
        return
    where = {"conversation_id": read.conversation_id, "item_id": {"$in": [*inherited]}, "withdrawn": False}
    counts = {
        "positive": {"$sum": {"$max": ["$rating", 0]}},
        "negative": {"$sum": {"$max": [{"$multiply": ["$rating", -1]}, 0]}},
    }
    stages: list[Document] = [
        {"$group": {"_id": "$item_id", **counts}},
        {"$project": {"_id": 0, "id": "$_id", **dict.fromkeys(counts, 1)}},
    ]
    for document in inherited.values():
        document.update(dict.fromkeys(counts, 0))
    for counted in await context.aggregate(read, "feedback", where, stages):
        inherited[counted["id"]].update(counted)


async def _deleted(
    context: QueryContext, read: ConversationRead, path: Path, documents: Sequence[Document]
) -> AbstractSet[str]:
    elsewhere = {
        document["id"]: document.get("copy_of")
        for document in documents
        if "copy_of" in document or document["conversation_id"] != read.conversation_id
    }
    retracted = {document["id"] for document in documents if document["retracted_version"] is not None}
    return retracted | await deleted_copies(context, read, elsewhere, path.conversations)


async def _retracted_then(read: ConversationRead, path: Path, documents: Sequence[Document]) -> set[str]:
    versions = {segment.conversation_id: segment.version for segment in path.segments}
    retracted = {
        document["id"]
        for document in documents
        if document["retracted_version"] is not None
        and document["retracted_version"] <= versions[document["conversation_id"]]
    }
    own = [document for document in documents if document["conversation_id"] == read.conversation_id]
    inherited = [document["id"] for document in documents if document["conversation_id"] != read.conversation_id]
    restored = [document["id"] for document in own if document.get("restored_version", 0) > path.end.version]
    retracted |= await retracted_then(read, restored, path.end.version)
    return retracted | await retracted_in_forks(read, path, inherited)


def _node(document: Document, is_retracted: bool, is_blanked: bool) -> TreeNode:
    """`is_blanked`: the item was deleted after the version that is read, and the caller lacks the scope `audit`."""
    fields: dict[str, Any] = {name: document[name] for name in ("id", "parent", "branch", "depth", "role", "type")}
    return TreeNode(
        **fields,
        created_at=document["created_at"] // 1_000_000,
        preview=UNSET if is_retracted or is_blanked else document["preview"],
        retracted=is_retracted or UNSET,
        blanked=is_blanked or UNSET,
        feedback=NodeFeedback(document.get("positive", 0), document.get("negative", 0)),
    )
