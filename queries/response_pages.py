"""A page of replies from the view `responses`, each with its output items from the view `items`."""

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from domain.errors import ResponseNotFound
from projections.views.writes import Document
from queries.consistency import Read
from queries.deleted_copies import deleted_input
from queries.paging import MAX_PAGE_BYTES, MAX_SMALL_PAGE_BYTES, Page
from queries.query_context import WITHOUT_LARGE, QueryContext, is_large
from queries.responses import output_of
from queries.tenant_views import Ids

BATCH_DOCUMENTS = 8
"""MongoDB also ends a batch at 16 MB."""


class Entry(Struct, frozen=True):
    id: str
    body: bytes


class Selected(Struct, frozen=True, kw_only=True):
    """Which replies a page shows. `stages` sort the replies and keep at most `limit` + 1.

    `with_input`: whether `entry_of` gets the ids of the deleted input items
    `entry_of`: makes the entry from a document, its output items, and the ids of the deleted input items
    """

    where: Document
    stages: Sequence[Document]
    limit: int
    with_input: bool
    entry_of: Callable[[Document, Sequence[bytes], Collection[str]], Entry]


async def response_page(context: QueryContext, read: Read, selected: Selected) -> Page:
    """A page of up to MAX_PAGE_BYTES. A reply whose conversation is deleted meanwhile is left out."""
    page = await _small_page(context, read, selected)
    if page is None:
        async with context.dependencies.connections.large_answer(context.principal.tenant):
            page = await _large_page(context, read, selected)
    return page


async def _small_page(context: QueryContext, read: Read, selected: Selected) -> Page | None:
    """None if the page is not small."""
    documents = await context.aggregate(read, "responses", selected.where, [*selected.stages, WITHOUT_LARGE])
    if any(map(is_large, documents)):
        return None
    items = await _small_items(context, read, documents)
    deleted = await deleted_input(context, read, documents) if selected.with_input else ()
    page = Page(limit=selected.limit, max_bytes=MAX_SMALL_PAGE_BYTES)
    for document in documents:
        if items is None or not items.keys() >= set(document["output_ids"]):
            return None
        output = [*(item for item_id in document["output_ids"] if (item := items[item_id])), *document["output"]]
        page.has_copies = page.has_copies or bool(document.get("copies"))
        entry = selected.entry_of(document, [item.encode() for item in output], deleted)
        if not page.add(entry.id, entry.body) and not page.is_full:
            return None
    return page


async def _small_items(context: QueryContext, read: Read, documents: list[Document]) -> Mapping[str, str] | None:
    """The items by id; "" for a retracted item. None if the items are too large for a small page."""
    items: dict[str, str] = {}
    size = 0

    def take(document: Document) -> bool:
        nonlocal size
        if is_large(document):
            return False
        items[document["id"]] = document["item"] if document["retracted_version"] is None else ""
        size += len(document["item"])
        return size <= MAX_SMALL_PAGE_BYTES

    item_ids = [item_id for document in documents for item_id in document["output_ids"]]
    stages = [{"$project": {"_id": 0, "id": 1, "item": 1, "retracted_version": 1}}, WITHOUT_LARGE]
    is_small = not item_ids or await context.read_while(read, "items", Ids(item_ids), stages, take)
    return items if is_small else None


async def _large_page(context: QueryContext, read: Read, selected: Selected) -> Page:
    page = Page(limit=selected.limit, max_bytes=MAX_PAGE_BYTES)
    found = await context.documents(read, "responses", selected.where, selected.stages, BATCH_DOCUMENTS)
    async with found as documents:
        async for document in documents:
            if page.is_full:
                page.has_more = True
                break
            page.has_copies = page.has_copies or bool(document.get("copies"))
            deleted = await deleted_input(context, read, [document]) if selected.with_input else ()
            try:
                output = await output_of(context, read, document)
            except ResponseNotFound:
                continue
            entry = selected.entry_of(document, output, deleted)
            if not page.add(entry.id, entry.body):
                break
    await context.dependencies.consistency.check(read)
    return page
