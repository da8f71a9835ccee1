"""Pages by key: `after`, `before`, `limit`, `order`, as the OpenAI API has them. For `queries/` only.

A page begins behind `after` in the order asked for and ends before `before`. With `before` alone it is the nearest page
before that cursor, still in the order asked for. `has_more` is true exactly when the range goes on beyond the page: behind
it, or for `before` alone, ahead of it.
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

Param = Literal["after", "before"]
T = TypeVar("T")


class Include(QueryParameters):
    include: list[str] | None = Field(
        None, alias="include[]", description="Accepted as the OpenAI API has it. Every answer is complete without it."
    )


class Paging(QueryParameters):
    """Which page to return. Cursors that are no ids are a 400."""

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
    def from_its_end(self) -> bool:
        """Whether the page is the nearest before its cursor."""
        return self.before is not None and self.after is None


def unknown_cursor(param: Param, what: str) -> ApiError:
    """The answer to a cursor that names nothing of this list."""
    return ApiError(400, f"`{param}` names no {what}.", code="invalid_cursor", param=param)


async def fetch(
    context: QueryContext,
    read: Read,
    view: MongoView,
    where: Document,
    *,
    field: str,
    paging: Paging,
    after: Any,
    before: Any,
    fields: Sequence[str],
) -> tuple[list[Document], bool]:
    """One page of the view's documents that match, ordered by `field`, and whether there is more.

    `after` and `before`: the values of `field` at the cursors; None where there is no cursor. Raises ApiError 503 when the
    view was reset meanwhile.
    """
    beyond, short_of = ("$gt", "$lt") if paging.ascending else ("$lt", "$gt")
    bounds = {
        **({} if after is None else {beyond: after}),
        **({} if before is None else {short_of: before}),
    }
    direction = 1 if paging.ascending != paging.from_its_end else -1
    pipeline: list[Document] = [
        {"$match": {**where, field: bounds} if bounds else where},
        {"$sort": {field: direction}},
        {"$limit": paging.limit + 1},
        {"$project": {"_id": 0, **dict.fromkeys(fields, 1)}},
    ]
    documents = await context.select(read, view, pipeline)
    has_more = len(documents) > paging.limit
    page = documents[: paging.limit]
    return page[::-1] if paging.from_its_end else page, has_more


def cut(entries: Sequence[T], ids: Sequence[str], paging: Paging, what: str) -> tuple[Sequence[T], Sequence[str], bool]:
    """The same of a list in memory that ascends: a page of it, its ids, and whether there is more. Raises ApiError (400)."""
    if not paging.ascending:
        entries, ids = entries[::-1], ids[::-1]

    def place(param: Param, cursor: str) -> int:
        if cursor not in ids:
            raise unknown_cursor(param, what)
        return ids.index(cursor)

    start = 0 if paging.after is None else place("after", paging.after) + 1
    end = len(ids) if paging.before is None else max(start, place("before", paging.before))
    has_more = end - start > paging.limit
    if paging.from_its_end:
        start = max(start, end - paging.limit)
    else:
        end = min(end, start + paging.limit)
    return entries[start:end], ids[start:end], has_more
