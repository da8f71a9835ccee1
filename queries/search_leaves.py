"""Finds the `leaf` of each hit: the last item of a path through the hit's item."""

from collections.abc import Mapping, Sequence

import msgspec

from domain.events import PathBranch
from domain.paths import FIRST_BRANCH, takes
from projections.views.writes import Document
from queries.consistency import Read
from queries.query_context import QueryContext
from queries.tenant_views import Ids


async def leaves_of(
    context: QueryContext, read: Read, items: Mapping[str, Document], conversations: Mapping[str, Document]
) -> dict[str, str]:
    """The leaf of each item. If the active path has the item, the leaf is the last item of this path, retracted or not.

    Otherwise the leaf is the last unretracted item of the item's branch. An inherited item has no leaf if it lies
    beside the active path, or if the last item is gone because its conversation was deleted.
    """
    leaves = {}
    beside = []
    for item_id, item in items.items():
        conversation = conversations.get(item["conversation_id"])
        if conversation is not None and takes(_active_path(conversation), item["branch"], item["depth"]):
            leaves[item_id] = conversation["head"]
        elif "inherited" not in item:
            beside.append(item_id)
    if inherited_from := {leaf for item_id, leaf in leaves.items() if "inherited" in items[item_id]}:
        project: Document = {"$project": {"_id": 0, "id": 1}}
        existing = {
            document["id"] for document in await context.aggregate(read, "items", Ids([*inherited_from]), [project])
        }
        leaves = {item_id: leaf for item_id, leaf in leaves.items() if leaf not in inherited_from - existing}
    return leaves | (await _ends_of_branches(context, read, beside) if beside else {})


def _active_path(conversation: Document) -> tuple[PathBranch, ...]:
    return msgspec.convert(conversation["path"], tuple[PathBranch, ...]) if "path" in conversation else FIRST_BRANCH


async def _ends_of_branches(context: QueryContext, read: Read, item_ids: Sequence[str]) -> dict[str, str]:
    same_branch: Document = {
        "from": read.collections["items"],
        "let": {"conversation": "$conversation_id", "branch": "$branch"},
        "pipeline": [
            {
                "$match": {
                    "tenant": read.tenant,
                    "$expr": {
                        "$and": [
                            {"$eq": ["$conversation_id", "$$conversation"]},
                            {"$eq": ["$branch", "$$branch"]},
                        ]
                    },
                    "retracted_version": None,
                }
            },
            {"$sort": {"depth": -1}},
            {"$limit": 1},
            {"$project": {"_id": 0, "id": 1}},
        ],
        "as": "leaf",
    }
    stages: list[Document] = [{"$lookup": same_branch}, {"$project": {"_id": 0, "id": 1, "leaf": 1}}]
    documents = await context.aggregate(read, "items", Ids(item_ids), stages)
    return {document["id"]: document["leaf"][0]["id"] for document in documents if document["leaf"]}
