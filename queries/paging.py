"""Pages of lists, with `after`, `before`, `limit` and `order` as in the OpenAI API.

With `before` alone, a page ends just before that cursor, in the requested order. `has_more` then says whether the
list has entries before the page.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Literal

from msgspec import Struct
from pydantic import Field, ValidationInfo, field_validator

from infrastructure.http.errors import ApiError
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.http.shapes import item_list
from infrastructure.ids import is_id
from projections.views.catalog import MongoView
from projections.views.writes import Document
from queries.consistency import Read
from queries.not_modified import NO_STORE
from queries.query_context import WITHOUT_LARGE, QueryContext, is_large

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_PAGE_BYTES = 8_000_000
"""A page with one entry may be larger."""

MAX_SMALL_PAGE_BYTES = 256 * 1024
"""A larger page waits for its turn."""

CursorParam = Literal["after", "before"]


class IncludeQuery(QueryParameters):
    include: list[str] | None = Field(
        None,
        alias="include[]",
        description="`message.input_image.image_url`: items have the data of their images too. Other values are accepted for compatibility with the OpenAI API.",
    )


class PageQuery(QueryParameters):
    """The requested page. A cursor that is not an id is a 400."""

    after: str | None = Field(None, description="The id that the page begins after.")
    before: str | None = Field(None, description="The id that the page ends before.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: newest first.")

    @field_validator("after", "before")
    @classmethod
    def _is_id(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if cursor is not None and not is_id(cursor):
            raise ApiError(
                400, f"`{info.field_name}` is not an id of this store.", code="invalid_id", param=info.field_name
            )
        return cursor

    @property
    def ascending(self) -> bool:
        return self.order == "asc"

    @property
    def is_first_page(self) -> bool:
        return self.after is None and self.before is None

    @property
    def is_backwards(self) -> bool:
        return self.before is not None and self.after is None


def unknown_cursor(param: CursorParam, what: str) -> ApiError:
    return ApiError(400, f"`{param}` is not {what}.", code="invalid_cursor", param=param)


class Page(Struct, kw_only=True):
    """A page of encoded entries. `has_copies`: the page may have copies or inherited items."""

    limit: int
    max_bytes: int
    entries: list[bytes] = []
    ids: list[str] = []
    size: int = 0
    has_more: bool = False
    has_copies: bool = False

    @property
    def is_full(self) -> bool:
        return len(self.entries) == self.limit

    def add(self, entry_id: str, entry: bytes) -> bool:
        """False if the page has no room for the entry. The first entry always fits."""
        if self.is_full or (self.entries and self.size + len(entry) > self.max_bytes):
            self.has_more = True
            return False
        self.entries.append(entry)
        self.ids.append(entry_id)
        self.size += len(entry)
        return True

    def headers(self, read: Read) -> dict[str, str]:
        return {**read.headers, **(NO_STORE if self.has_copies else {})}

    def body(self, *, is_backwards: bool, **fields: object) -> bytes:
        """`is_backwards`: the entries were added in the opposite order."""
        step = -1 if is_backwards else 1
        return item_list(self.entries[::step], self.ids[::step], has_more=self.has_more, **fields)


async def fetch_page(
    context: QueryContext,
    read: Read,
    view: MongoView,
    where: Document,
    *,
    field: str,
    page: PageQuery,
    after: Any,
    before: Any,
    fields: Sequence[str],
    entry_of: Callable[[Document], bytes],
    then: Iterable[Document] = (),
    merged: Sequence[Document] = (),
    check: bool = True,
) -> Page:
    """A page of a view's documents. `where` selects them, `field` gives their order.

    `then`: further filters. The documents of a filter come after the documents of all filters before it.
    `merged`: further filters. Their documents are merged in the order of `field`. No document may match two filters.
      These filters are not joined with `$or`, because MongoDB would try many plans for it. Do not pass `then` as well.
    `after`, `before`: the values of `field` at the cursors.
    `check`: as in `QueryContext.read_while`

    A page that is not small waits for its turn. Raises as `Consistency.check` does, and ApiError (503) when a large
    page gets no turn.
    """
    after_operator, before_operator = ("$gt", "$lt") if page.ascending else ("$lt", "$gt")
    bounds = {
        **({} if after is None else {after_operator: after}),
        **({} if before is None else {before_operator: before}),
    }
    direction = 1 if page.ascending != page.is_backwards else -1

    def bounded(selection: Document) -> Document:
        return {**selection, field: {**selection.get(field, {}), **bounds}} if bounds else selection

    selections = (bounded(each) for each in chain([where], then))
    first_ones: list[Document] = [{"$sort": {field: direction}}, {"$limit": page.limit + 1}]
    others = [context.union(read, view, bounded(each), first_ones) for each in merged]
    stages: list[Document] = [
        *first_ones,
        *((*others, *first_ones) if others else ()),
        {"$project": {"_id": 0, **dict.fromkeys(fields, 1)}},
    ]
    small = Page(limit=page.limit, max_bytes=MAX_SMALL_PAGE_BYTES)

    def take_small(document: Document) -> bool:
        if small.is_full:
            small.has_more = True
            return True  # it was the last document
        return not is_large(document) and small.add(document["id"], entry_of(document))

    def take_large(document: Document) -> bool:
        return large.add(document["id"], entry_of(document))

    used: list[Document] = []
    for selection in selections:
        used.append(selection)
        if not await context.read_while(read, view, selection, [*stages, WITHOUT_LARGE], take_small, check=check):
            break
        if small.has_more:
            return small
    else:
        return small
    large = Page(limit=page.limit, max_bytes=MAX_PAGE_BYTES)
    async with context.dependencies.connections.large_answer(context.principal.tenant):
        for selection in chain(used, selections):
            if not await context.read_while(read, view, selection, stages, take_large, check=check):
                break
    return large


def page_of(
    entries: Sequence[bytes], ids: Sequence[str], page: PageQuery, what: str, *, left_out: Collection[str] = ()
) -> Page:
    """A page of a list in ascending order. Entries in `left_out` are not shown, but may be cursors.

    Raises ApiError (400) for an unknown cursor.
    """
    if not page.ascending:
        entries, ids = entries[::-1], ids[::-1]

    def index_of(param: CursorParam, cursor: str) -> int:
        if cursor not in ids:
            raise unknown_cursor(param, what)
        return ids.index(cursor)

    start = 0 if page.after is None else index_of("after", page.after) + 1
    end = len(ids) if page.before is None else max(start, index_of("before", page.before))
    result = Page(limit=page.limit, max_bytes=MAX_PAGE_BYTES)
    for index in reversed(range(start, end)) if page.is_backwards else range(start, end):
        if ids[index] not in left_out and not result.add(ids[index], entries[index]):
            break
    return result
