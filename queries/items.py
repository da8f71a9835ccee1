"""GET /v1/conversations/{id}/items and …/items/{item}: items as they were at one version."""

import asyncio
from collections.abc import Collection
from typing import Final

import msgspec
from fastapi import APIRouter
from msgspec import Struct, field
from starlette.responses import Response

from domain.errors import ItemNotFound
from domain.paths import Path
from infrastructure.http import shapes
from infrastructure.http.item_schemas import Item, ItemList
from projections.views.items import ItemRange
from projections.views.writes import Document
from queries.blanking import blanked_item_json
from queries.consistency import ConversationRead
from queries.deleted_copies import deleted_copies
from queries.included_images import INCLUDED, include_images, with_images
from queries.inherited_items import is_inherited, read_with_origins, retracted_in_forks
from queries.item_additions import ADDED_FROM, additions, has_siblings, retracted_then, unretracted_at, with_added
from queries.item_paths import Bounds, PathQuery, bounds_of, filters, path_to_read, places_in_view
from queries.not_modified import NO_STORE
from queries.paging import IncludeQuery, Page, PageQuery, fetch_page
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route

router = APIRouter(tags=["items"])

_NOTHING: Final[Document] = {"_id": None}
"""Matches no item."""


class ItemsQuery(IncludeQuery, PageQuery, PathQuery):
    """A page of the items on a path."""


@query_route(
    router,
    "/v1/conversations/{conversation_id}/items",
    ItemsQuery,
    answer=ItemList,
    answer_headers=CONVERSATION_HEADERS,
)
async def list_items(context: QueryContext, conversation_id: str, query: ItemsQuery) -> Response:
    """A page of the items on the active path, newest first. `branch` or `leaf` selects another path. In a fork, the path begins with the inherited items.

    Any item of the conversation can be a cursor, retracted or not.
    """
    if query.is_first_page and query.as_of is None:
        await context.check_modified(conversation_id, inherits=True)
    # An item's place never changes, so the place can be read before the view has caught up.
    read, known_places = await asyncio.gather(
        read_with_origins(context, conversation_id, "items"), places_in_view(context, conversation_id, query)
    )
    path = await path_to_read(context, read, query)
    bounds = await bounds_of(context, read, path, query, known_places)
    page = await _page(context, read, path, query, bounds)
    await include_images(context, page, query.include)
    if not page.is_full:
        await context.dependencies.consistency.check_not_deleted(read)
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


class _PageItems(Struct):
    """Collects what must be checked of a page's items.

    `deletable_elsewhere`: copies, each with its original, and inherited items.
    `restored`: the items that were restored after the version of the page.
    """

    path: Path
    deletable_elsewhere: dict[str, str | None] = field(default_factory=dict)
    retracted: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    documents: dict[str, Document] = field(default_factory=dict)

    def entry(self, document: Document) -> bytes:
        self.documents[document["id"]] = document
        inherited = self._is_inherited(document)
        if "copy_of" in document or inherited:
            self.deletable_elsewhere[document["id"]] = document.get("copy_of")
        if document["retracted_version"] is not None:
            self.retracted.add(document["id"])
        if not inherited and document.get("restored_version", 0) > self.path.end.version:
            self.restored.add(document["id"])
        return bytes(document.pop("item"), "utf-8")

    async def deleted_elsewhere(self, context: QueryContext, read: ConversationRead, page: Page) -> frozenset[str]:
        on_page = {
            item_id: self.deletable_elsewhere[item_id] for item_id in page.ids if item_id in self.deletable_elsewhere
        }
        return await deleted_copies(context, read, on_page, self.path.conversations)

    async def retracted_then(self, read: ConversationRead, page: Page, as_of: int | None) -> set[str]:
        """The items that were retracted at the version of the page, and restored later. With `as_of`, also inherited
        items that a fork had retracted.
        """
        restored = [item_id for item_id in page.ids if item_id in self.restored]
        retracted = await retracted_then(read, restored, self.path.end.version)
        if as_of is not None:
            inherited = [item_id for item_id in page.ids if self._is_inherited(self.documents[item_id])]
            retracted |= await retracted_in_forks(read, self.path, inherited)
        return retracted

    def _is_inherited(self, document: Document) -> bool:
        return bool(document["conversation_id"] != self.path.end.conversation_id)


async def _page(context: QueryContext, read: ConversationRead, path: Path, query: ItemsQuery, bounds: Bounds) -> Page:
    """Without `as_of`, the page has no deleted items. The page is read again if the log says that some of its items are
    deleted.

    With `as_of`, deleted items are blanked, unless the caller has the scope `audit`.
    """
    ascending = query.ascending != query.is_backwards

    def condition(items: ItemRange) -> Document:
        is_now = query.as_of is None and items.conversation_id != read.conversation_id
        return {"retracted_version": None} if is_now else unretracted_at(items.version)

    count = query.limit + 1
    deleted: set[str] = set()
    while True:
        items = _PageItems(path)
        without = {"id": {"$nin": [*deleted]}} if deleted else {}
        selections = filters(read.tenant, path, bounds, ascending=ascending, count=count, condition=condition)
        then = ({**selection, **without} for selection in selections)
        page = await fetch_page(
            context,
            read,
            "items",
            next(then, _NOTHING),
            field="depth",
            page=query,
            after=None,
            before=None,
            fields=("id", "item", "copy_of", "retracted_version", "restored_version", *ADDED_FROM),
            entry_of=items.entry,
            then=then,
            check=not has_siblings(read),  # reading the siblings checks
        )
        page.has_copies = bool(items.deletable_elsewhere or deleted or read.forks)
        if hidden := await items.retracted_then(read, page, query.as_of):
            deleted |= hidden
            continue
        found: frozenset[str] = frozenset()
        if query.as_of is None or not context.principal.may("audit"):
            found = await items.deleted_elsewhere(context, read, page)
        if query.as_of is None and found:
            deleted |= found
            continue
        if query.as_of is not None and not context.principal.may("audit"):
            _blank(page, found | items.retracted)
        documents = [items.documents[item_id] for item_id in page.ids]
        added = await additions(context, read, documents, path.end.version)
        page.entries = [with_added(*each) for each in zip(page.entries, added, strict=True)]
        return page


def _blank(page: Page, deleted: Collection[str]) -> None:
    page.entries = [
        blanked_item_json(msgspec.json.decode(entry)) if item_id in deleted else entry
        for item_id, entry in zip(page.ids, page.entries, strict=True)
    ]


@query_route(
    router,
    "/v1/conversations/{conversation_id}/items/{item_id}",
    IncludeQuery,
    answer=Item,
    answer_headers=CONVERSATION_HEADERS,
)
async def get_item(context: QueryContext, conversation_id: str, item_id: str, query: IncludeQuery) -> Response:
    """The item. 404 when it is deleted, or when the conversation neither has nor inherits it."""
    read = await read_with_origins(context, conversation_id, "items")
    fields = ("id", "retracted_version", "item", "copy_of", *ADDED_FROM)
    document = await context.find_document(read, "items", item_id, *fields)
    if document is None:
        raise ItemNotFound(item_id)
    inherited = document["conversation_id"] != conversation_id
    if not (is_inherited(read, document) if inherited else _is_unretracted(document, read.version)):
        raise ItemNotFound(item_id)
    elsewhere = {item_id: document.get("copy_of")} if inherited or "copy_of" in document else {}
    if await deleted_copies(context, read, elsewhere, [conversation_id, *read.origins]):
        raise ItemNotFound(item_id)
    [added] = await additions(context, read, [document], read.version)
    body = with_added(document["item"].encode(), added)
    if INCLUDED.intersection(query.include or ()):
        body = await with_images(context, body)
    return shapes.json_response(body, headers={**read.headers, **(NO_STORE if elsewhere or read.forks else {})})


def _is_unretracted(document: Document, version: int) -> bool:
    retracted_version: int | None = document["retracted_version"]
    return bool(document["version"] <= version) and (retracted_version is None or retracted_version > version)
