"""A search goes through the caller's own conversations, the conversations that are shared with the caller, and the
origins of forks. An admin's search goes through the whole tenant.

An inherited item is found in its own conversation if the caller may read this conversation. If not, the item is
found through the newest fork that shows it. If the query names a fork, inherited items are found through this fork.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from context.deleted_content import deleted_items
from domain.paths import Path
from projections.views.catalog import LIST_TERMS
from projections.views.conversations import shared_with_subject
from projections.views.list_terms import FIRST_VERSION_WITH_TERMS, share_term
from projections.views.writes import Document
from queries.consistency import Read
from queries.fork_origins import Inherited
from queries.log_access import PostgresUnavailable
from queries.query_context import QueryContext
from queries.tenant_views import Index

MAX_SECONDS: Final = 2.0
"""MongoDB's limit for each step of a search."""

MAX_SHARED: Final = 1_000
"""Of the shared conversations, only the newest are searched, up to this number."""

MAX_FORKS: Final = 1_000
"""Only the origins of the caller's newest forks are searched, up to this number of forks."""

_MAX_CHECKED_FORKS: Final = 32
"""How many forks are checked for the inherited items of a page. Usually one or two are enough."""

_MAX_OWNERS: Final = 200
"""For up to this many owners, MongoDB reads the documents in order of time. For more owners, it sorts all documents of
a term.
"""


_OWNERS: Final[list[Document]] = [
    {"$sort": {"owner": 1}},
    {"$group": {"_id": "$owner"}},
    {"$limit": _MAX_OWNERS + 1},
    {"$project": {"_id": 0, "owner": "$_id"}},
]
_OWN_FORKS: Final[list[Document]] = [{"$sort": {"id": -1}}, {"$limit": MAX_FORKS}, {"$project": {"_id": 0, "id": 1}}]
_SHARED: Final[list[Document]] = [
    {"$sort": {"id": -1}},
    {"$limit": MAX_SHARED},
    {"$project": {"_id": 0, "id": 1, "owner": 1, "forked_from": 1}},
]


class Visible(Struct, frozen=True):
    """What a search goes through. Some of it may no longer be visible, so each hit is checked.

    `conversations`: the conversation that the query names, and its origins
    `forks`: the paths of the forks through which inherited items are found, newest first
    """

    documents: Document
    conversations: Sequence[str] | None = None
    forks: Sequence[Path] = ()


def visibility_stages(context: QueryContext, conversation_id: str | None) -> list[Document]:
    """For an admin, the stages that find owners. For another caller, the stages that find the caller's forks and the
    conversations shared with the caller. Empty if the query names a conversation.
    """
    if conversation_id is not None:
        return []
    views, positions = context.dependencies.views, context.dependencies.consistency.positions
    if context.principal.may("admin"):
        return [views.union(positions.last_collection("search"), {}, _OWNERS)]
    subject = context.principal.subject
    own_forks: Document = {"owner": subject, "forked_from.conversation": {"$exists": True}}
    shares = shared_with_subject(subject)
    shared: Document = {"shared_with": {"$in": shares}, "owner": {"$ne": subject}}
    if positions.last_position("conversations").version >= FIRST_VERSION_WITH_TERMS:
        shared |= {LIST_TERMS: {"$in": [*map(share_term, shares)]}, "listed": {"$in": [False, True]}}
        shared |= {"status": {"$in": ["active", "ended"]}, "archived": {"$in": [False, True]}}
    conversations = positions.last_collection("conversations")
    return [views.union(conversations, own_forks, _OWN_FORKS), views.union(conversations, shared, _SHARED)]


async def visible_conversations(
    context: QueryContext, read: Read, conversation_id: str | None, found: Sequence[Document]
) -> Visible:
    """What the search goes through. `found`: the documents of `visibility_stages`. Raises ConversationNotFound
    and PostgresUnavailable.
    """
    principal = context.principal
    named = None if conversation_id is None else [conversation_id]
    if conversation_id is not None:
        try:
            head = await context.dependencies.log.existing_head(conversation_id)
            inherited = await _inherited_by(context, [conversation_id])
        except PostgresUnavailable:
            if read.verified:
                raise
        else:
            owners = {head.owner, *inherited.owners.values()}
            return Visible({"owner": {"$in": [*owners]}}, [conversation_id, *inherited.owners], inherited.paths)
    if principal.may("admin"):
        owners_of_tenant = [each["owner"] for each in found]
        is_few = 0 < len(owners_of_tenant) <= _MAX_OWNERS
        return Visible({"owner": {"$in": owners_of_tenant}} if is_few else {}, named)
    own: Document = {"owner": principal.subject}
    if not read.verified:
        return Visible(own, named)
    shared = [each for each in found if "owner" in each]
    forks = {each["id"] for each in found if "owner" not in each or each["forked_from"] is not None}
    inherited = await _inherited_by(context, sorted(forks, reverse=True))
    owner_of = {each["id"]: each["owner"] for each in shared} | inherited.owners
    of_others = {each: owner for each, owner in owner_of.items() if owner != principal.subject}
    if not of_others:
        return Visible(own)
    documents = {"owner": {"$in": sorted({*of_others.values()})}, "conversation_id": {"$in": [*of_others]}}
    paths = [path for path in inherited.paths if not of_others.keys().isdisjoint(path.conversations[:-1])]
    return Visible({"$or": [own, documents]}, forks=paths)


async def shown_in_forks(
    context: QueryContext, items: Mapping[str, Document], forks: Sequence[Path]
) -> dict[str, Document]:
    """The items that a fork shows to the caller, as the log says. In a returned item, `conversation_id` is the fork
    and `branch` is 0.
    """
    log = context.dependencies.log
    shown: dict[str, Document] = {}
    checked = 0
    for path in forks:
        fork_id = path.end.conversation_id
        inherited = {
            item_id: item
            for item_id, item in items.items()
            if item_id not in shown and item["conversation_id"] != fork_id and _has(path, item)
        }
        if not inherited:
            continue
        if checked == _MAX_CHECKED_FORKS:
            break
        checked += 1
        if await log.readable_head(fork_id) is None:
            continue
        copies = {item_id: item.get("copy_of") for item_id, item in inherited.items()}
        deleted = await deleted_items(log, copies, path.conversations)
        for item_id in inherited.keys() - deleted:
            shown[item_id] = {**items[item_id], "conversation_id": fork_id, "branch": 0, "inherited": True}
    return shown


def _has(path: Path, item: Document) -> bool:
    return path.contains(*(item[name] for name in ("conversation_id", "branch", "depth", "version")))


async def _inherited_by(context: QueryContext, fork_ids: Sequence[str]) -> Inherited:
    return await context.dependencies.fork_origins.of(context.dependencies.log, fork_ids)


async def find_documents(
    context: QueryContext, collection: str, where: Document, stages: Sequence[Document], index: Index | None = None
) -> list[Document]:
    """Does not check the views' positions, because these documents only help to find matches."""
    documents = await context.dependencies.views.aggregate(
        collection, where, stages, max_seconds=MAX_SECONDS, index=index
    )
    return await documents.to_list()
