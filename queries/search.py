"""GET /v1/search: the messages that the caller may see and whose text matches.

A search ranks a block of the newest matches and shows them page by page. Then it continues with the next older block.
The view `search` may be behind the log, so each hit is checked before it is shown.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta, Struct
from pymongo.errors import ExecutionTimeout
from starlette.responses import Response

from context.deleted_content import deleted_items
from domain.items import text_of
from infrastructure.event_log.version_lookup import Head
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import Seconds
from projections.views.writes import Document
from queries.consistency import Read, may_see_unverified
from queries.log_access import PostgresUnavailable
from queries.query_context import QueryContext
from queries.query_route import query_route
from queries.search_cursor import SearchCursor, cursor_of, encode_cursor
from queries.search_leaves import leaves_of
from queries.search_matches import Match, Matches
from queries.search_query import SearchQuery
from queries.search_snippets import snippet
from queries.search_terms import SearchTerms, parse
from queries.search_visible import Visible, shown_in_forks, visibility_stages, visible_conversations
from queries.tenant_views import Ids

router = APIRouter(tags=["search"])

_SPARE = 1
"""A page needs one match more than it shows, to know whether there are more."""

_OF_ITEM: list[Document] = [
    {
        "$project": {
            "_id": 0,
            "id": 1,
            "conversation_id": 1,
            "branch": 1,
            "depth": 1,
            "version": 1,
            "item": 1,
            "created_at": 1,
            "copy_of": 1,
        }
    }
]
_OF_CONVERSATION: list[Document] = [{"$project": {"_id": 0, "id": 1, "owner": 1, "head": 1, "path": 1}}]


class SearchHit(Struct, frozen=True, kw_only=True, tag_field="object", tag="search.hit"):
    """A message that matches. `GET …/items?leaf=` shows the path through the message that ends with `leaf`.

    `leaf`: the last item of the conversation's active path, if this goes through the message. If not, the last item of the message's branch, or the message itself if it is inherited. Also the message itself, if the last item of the active path was deleted with its conversation.
    `conversation`: a message that a fork inherits is found through the fork if the caller may not read its own conversation, or if the query names the fork.
    Then `conversation` is the fork, and `branch` is 0.

    `highlights`: [start, end] of each match in the snippet, in characters (Unicode code points). A hit with a higher `score` is better.
    """

    conversation: str
    item: str
    branch: int
    leaf: str
    role: str
    created_at: Seconds
    snippet: str
    highlights: list[Annotated[list[int], Meta(min_length=2, max_length=2)]]
    score: float


class SearchResults(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of hits. `position`: the search knows all that was committed up to this position of the log."""

    data: list[SearchHit]
    position: int
    has_more: bool
    next_cursor: str | None


@query_route(router, "/v1/search", SearchQuery, answer=SearchResults, errors=(404,))
async def search(context: QueryContext, query: SearchQuery) -> Response:
    """The best matches among the newest messages, each with a snippet of its text around the words.

    Finds what the caller may read, and what forks that the caller may read inherit. Does not wait for the newest appends: `position` says up to where the answer is complete.
    """
    terms = parse(query.q)
    cursor = cursor_of(query)
    read, visible = await _started(context, query)
    try:
        page = await _page(context, read, query, terms, visible=visible, cursor=cursor)
    except ExecutionTimeout as error:
        message = "The search took too long. Search for more or rarer words, or use a filter."
        raise ApiError(503, message, code="search_timeout", param="q", headers={"retry-after": "5"}) from error
    results = SearchResults(
        data=page.hits,
        position=read.complete_to,
        has_more=page.next is not None,
        next_cursor=None if page.next is None else encode_cursor(page.next, query),
    )
    return shapes.json_response(shapes.encode(results), headers=read.headers)


class _Page(Struct):
    """`next`: where the next page begins. None: there are no more matches."""

    hits: list[SearchHit]
    next: SearchCursor | None = None


async def _started(context: QueryContext, query: SearchQuery) -> tuple[Read, Visible]:
    while True:
        stages = visibility_stages(context, query.conversation)
        read, found = await context.dependencies.consistency.read_without_waiting(
            context.principal.tenant,
            "search",
            "items",
            also_used=("conversations",),
            min_position=context.min_position,
            stages=stages,
        )
        if stages == visibility_stages(context, query.conversation):  # if not, a rebuilt view has replaced a collection
            return read, await visible_conversations(context, read, query.conversation, found)


async def _page(
    context: QueryContext,
    read: Read,
    query: SearchQuery,
    terms: SearchTerms,
    *,
    visible: Visible,
    cursor: SearchCursor,
) -> _Page:
    matches = await Matches.of(context, read, query, terms, visible)
    page = _Page([])
    while True:
        found = await matches.after(cursor, query.limit - len(page.hits) + _SPARE)
        hits = await _hits(context, read, terms, visible, found.matches)
        for match in found.matches:
            if match.item_id in hits:
                if len(page.hits) == query.limit:
                    page.next = cursor
                    return page
                page.hits.append(hits[match.item_id])
            cursor = match.cursor
        if found.next is None:
            return page
        cursor = found.next


async def _hits(
    context: QueryContext, read: Read, terms: SearchTerms, visible: Visible, matches: Sequence[Match]
) -> dict[str, SearchHit]:
    """The hits by item id. Raises as `Consistency.check` does, and PostgresUnavailable."""
    if not matches:
        await context.dependencies.consistency.check(read)
        return {}
    (items, conversations), end_of = await asyncio.gather(
        _items(context, read, matches), _ends(context, read, {match.conversation_id for match in matches})
    )
    if end_of is None:
        own = {each for each, found in conversations.items() if may_see_unverified(context.principal, found["owner"])}
        found = {item_id for item_id, item in items.items() if item["conversation_id"] in own}
    else:
        found = await _visible(context, read, items, end_of)
    named = visible.conversations[:1] if visible.conversations else None
    shown = {
        item_id: item
        for item_id, item in items.items()
        if item_id in found and (named is None or item["conversation_id"] in named)
    }
    if visible.forks:
        others = {item_id: item for item_id, item in items.items() if item_id not in shown}
        inherited = await shown_in_forks(context, others, visible.forks)
        conversations |= await _conversations(context, {item["conversation_id"] for item in inherited.values()})
        shown |= inherited
    leaves = await leaves_of(context, read, shown, conversations)
    return {
        match.item_id: _hit(match, shown[match.item_id], leaves.get(match.item_id, match.item_id), terms)
        for match in matches
        if match.item_id in shown
    }


async def _items(
    context: QueryContext, read: Read, matches: Sequence[Match]
) -> tuple[dict[str, Document], dict[str, Document]]:
    """(items, conversations), both by id."""
    conversations = context.dependencies.views.union(
        _conversations_collection(context), Ids([*{match.conversation_id for match in matches}]), _OF_CONVERSATION
    )
    stages: list[Document] = [{"$match": {"retracted_version": None}}, *_OF_ITEM, conversations]
    documents = await context.aggregate(read, "items", Ids([match.item_id for match in matches]), stages)
    by_id = {document["id"]: document for document in documents}
    items = {document_id: document for document_id, document in by_id.items() if "item" in document}
    return items, {document_id: by_id[document_id] for document_id in by_id.keys() - items.keys()}


async def _conversations(context: QueryContext, conversation_ids: Collection[str]) -> dict[str, Document]:
    """The view may not have all of these conversations yet."""
    if not conversation_ids:
        return {}
    documents = await context.dependencies.views.aggregate(
        _conversations_collection(context), Ids([*conversation_ids]), _OF_CONVERSATION
    )
    return {document["id"]: document for document in await documents.to_list()}


def _conversations_collection(context: QueryContext) -> str:
    return context.dependencies.consistency.positions.last_collection("conversations")


async def _ends(context: QueryContext, read: Read, conversation_ids: Collection[str]) -> dict[str, Head | None] | None:
    """None if the read is unverified and Postgres is unavailable. Raises PostgresUnavailable if the read is verified."""
    in_order = [*conversation_ids]
    try:
        return dict(zip(in_order, await context.dependencies.log.head_of_each(in_order), strict=True))
    except PostgresUnavailable:
        if read.verified:
            raise
        return None


async def _visible(
    context: QueryContext, read: Read, items: Mapping[str, Document], end_of: Mapping[str, Head | None]
) -> set[str]:
    """The ids of the items that the caller may see.

    If the view has all events of a conversation, the view knows which items are retracted. The log is asked about items of
    all other conversations, and about copies.
    """
    readable = {
        conversation_id: head
        for conversation_id, head in end_of.items()
        if head is not None and not head.deleted and head.role(context.principal) is not None
    }
    current = {
        conversation_id
        for conversation_id, head in readable.items()
        if head.position <= read.complete_to and conversation_id not in read.parked
    }
    found = {item_id: item for item_id, item in items.items() if item["conversation_id"] in readable}
    unsettled = {
        item_id: item.get("copy_of")
        for item_id, item in found.items()
        if item["conversation_id"] not in current or item.get("copy_of")
    }
    return found.keys() - await deleted_items(context.dependencies.log, unsettled)


def _hit(match: Match, document: Document, leaf: str, terms: SearchTerms) -> SearchHit:
    item = msgspec.json.decode(document["item"])
    shown = snippet(text_of(item), terms.wanted)
    return SearchHit(
        conversation=document["conversation_id"],
        item=match.item_id,
        branch=document["branch"],
        leaf=leaf,
        role=item["role"],
        created_at=document["created_at"] // 1_000_000,
        snippet=shown.text,
        highlights=[list(span) for span in shown.highlights],
        score=round(match.score, 4),
    )
