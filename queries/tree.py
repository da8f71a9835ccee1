"""GET /v1/conversations/{id}/tree: all items of a conversation, on all its branches, little of each. From the view `items`.

Nodes are sorted by depth and then by branch. Two queries find a page: the items along branch 0, and those on other branches.
"""

import asyncio
from collections.abc import Collection
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
from queries.item_additions import retracted_then
from queries.item_paths import PLACE_FIELDS, AsOfQuery, Bounds, ItemPlace, active_path, filters, place_of, trunk
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
    `preview`: the beginning of what it says, at most 80 characters; absent if the item is deleted. `retracted`: present if it was deleted by
    then. `blanked`: present if it was deleted after the version that is read.
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
    """A page of nodes. `active_leaf`: the id of the last item of the active path; null if it has none."""

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
    """A page of the items on all branches, by depth, with a preview of each. Deleted items are in it too, without a preview."""
    if query.after is None and query.as_of is None:
        await context.check_modified(conversation_id)
    read = await context.read_conversation(conversation_id, "items")
    version = query.version(read)
    after = None if query.after is None else await _cursor_place(context, read, query.after)
    on_trunk, elsewhere, active_leaf = await asyncio.gather(
        _on_trunk(context, read, trunk(read, version), after, query.limit),
        _elsewhere(context, read, version, after, query.limit),
        _last_item(context, read, await active_path(read, version)),
    )
    found = [*merge(on_trunk, elsewhere, key=lambda document: (document["depth"], document["branch"]))]
    documents = found[: query.limit]
    copies = {document["id"]: document["copy_of"] for document in documents if "copy_of" in document}
    deleted = await deleted_copies(context, read, copies)
    restored = [document["id"] for document in documents if document.get("restored_version", 0) > version]
    retracted = await retracted_then(read, restored, version)
    sees_deleted = context.principal.may("audit")
    tree = Tree(
        data=[
            _node(document, query.as_of, deleted, sees_deleted, document["id"] in retracted) for document in documents
        ],
        active_leaf=active_leaf,
        has_more=len(found) > query.limit,
    )
    if not tree.has_more:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(tree, headers={**read.headers, **(NO_STORE if copies else {})})


async def _on_trunk(
    context: QueryContext, read: ConversationRead, path: Path, after: ItemPlace | None, limit: int
) -> list[Document]:
    """The next nodes along branch 0, and one more than `limit` if there are more."""
    bounds = Bounds() if after is None else Bounds(min_depth=after.depth + 1)
    selection = next(filters(read.tenant, path, bounds, ascending=True, count=limit + 1))
    return await _nodes(context, read, selection, limit)


async def _elsewhere(
    context: QueryContext, read: ConversationRead, version: int, after: ItemPlace | None, limit: int
) -> list[Document]:
    """The next nodes on other branches, and one more than `limit` if there are more."""
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
    """The id of the last item of the path, retracted or not."""
    selection = next(filters(read.tenant, path, Bounds(), ascending=False, count=1))
    stages: list[Document] = [{"$sort": {"depth": -1}}, {"$limit": 1}, {"$project": {"_id": 0, "id": 1}}]
    found = await context.aggregate(read, "items", selection, stages)
    return found[0]["id"] if found else None


def _node(
    document: Document, as_of: int | None, deleted: Collection[str], sees_deleted: bool, was_retracted: bool
) -> TreeNode:
    """The node of an item. `deleted`: the copies whose originals are deleted. `sees_deleted`: the caller may see what was deleted after `as_of`.

    `was_retracted`: the item was retracted at `as_of`, and restored later.
    """
    retracted_version: int | None = document["retracted_version"]
    is_deleted = retracted_version is not None or document["id"] in deleted
    at_version = was_retracted or (retracted_version is not None and as_of is not None and retracted_version <= as_of)
    is_retracted = is_deleted if as_of is None else at_version
    is_blanked = is_deleted and not is_retracted and not sees_deleted
    fields: dict[str, Any] = {name: document[name] for name in ("id", "parent", "branch", "depth", "role", "type")}
    return TreeNode(
        **fields,
        created_at=document["created_at"] // 1_000_000,
        preview=UNSET if is_retracted or is_blanked else document["preview"],
        retracted=is_retracted or UNSET,
        blanked=is_blanked or UNSET,
        feedback=NodeFeedback(document.get("positive", 0), document.get("negative", 0)),
    )


async def _cursor_place(context: QueryContext, read: ConversationRead, after: str) -> ItemPlace:
    """The place of a node. Raises ApiError (400) when it is not an item of this conversation."""
    document = await context.find_document(read, "items", after, *PLACE_FIELDS)
    if document is None or document["conversation_id"] != read.conversation_id:
        raise unknown_cursor("after", "an item of this conversation")
    return place_of(document)
