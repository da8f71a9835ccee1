"""Pages of lists, with `after`, `before`, `limit` and `order` as in the OpenAI API.

A page starts after the cursor `after` in the requested order, and ends before the cursor `before`. With `before` alone it is the page
just before that cursor, still in the requested order. `has_more` says whether the list continues after the page; with `before`
alone, whether it has entries before the page.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from infrastructure.http.errors import ApiError
from infrastructure.ids import is_id
from projections.views.catalog import MongoView
from projections.views.writes import Document
from queries.consistency import Read
from queries.query_context import QueryContext
from queries.query_route import QueryParameters

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

CursorParam = Literal["after", "before"]
T = TypeVar("T")


class IncludeQuery(QueryParameters):
    include: list[str] | None = Field(
        None,
        alias="include[]",
        description="Accepted for compatibility with the OpenAI API. Every answer is complete without it.",
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
    def is_backwards(self) -> bool:
        """Whether the page is the one just before `before`."""
        return self.before is not None and self.after is None


def unknown_cursor(param: CursorParam, what: str) -> ApiError:
    """The answer to a cursor that is not in the list."""
    return ApiError(400, f"`{param}` is not {what}.", code="invalid_cursor", param=param)


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
) -> tuple[list[Document], bool]:
    """One page of the view's documents that match `where`, ordered by `field`, and whether there is more.

    `after` and `before` are the values of `field` at the cursors, None without a cursor. Raises as `Consistency.check` does.
    """
    after_operator, before_operator = ("$gt", "$lt") if page.ascending else ("$lt", "$gt")
    bounds = {
        **({} if after is None else {after_operator: after}),
        **({} if before is None else {before_operator: before}),
    }
    direction = 1 if page.ascending != page.is_backwards else -1
    pipeline: list[Document] = [
        {"$match": {**where, field: bounds} if bounds else where},
        {"$sort": {field: direction}},
        {"$limit": page.limit + 1},
        {"$project": {"_id": 0, **dict.fromkeys(fields, 1)}},
    ]
    documents = await context.aggregate(read, view, pipeline)
    has_more = len(documents) > page.limit
    documents = documents[: page.limit]
    return documents[::-1] if page.is_backwards else documents, has_more


def page_of(
    entries: Sequence[T], ids: Sequence[str], page: PageQuery, what: str
) -> tuple[Sequence[T], Sequence[str], bool]:
    """One page of a list in memory in ascending order: its entries, their ids, and whether there is more. Raises ApiError (400)."""
    if not page.ascending:
        entries, ids = entries[::-1], ids[::-1]

    def index_of(param: CursorParam, cursor: str) -> int:
        if cursor not in ids:
            raise unknown_cursor(param, what)
        return ids.index(cursor)

    start = 0 if page.after is None else index_of("after", page.after) + 1
    end = len(ids) if page.before is None else max(start, index_of("before", page.before))
    has_more = end - start > page.limit
    if page.is_backwards:
        start = max(start, end - page.limit)
    else:
        end = min(end, start + page.limit)
    return entries[start:end], ids[start:end], has_more
