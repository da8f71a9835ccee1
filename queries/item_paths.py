"""Finds the path that a query shows, and where cursors lie on it."""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from msgspec import Struct
from pydantic import Field, field_validator

from context.branch_paths import active_branches, branches_to
from domain.events import PathBranch
from domain.paths import Path, common_depth
from infrastructure.http.errors import ApiError
from infrastructure.http.query_parameters import QueryParameters
from infrastructure.ids import is_id
from projections.views.items import ItemRange, item_ranges
from projections.views.writes import Document
from queries.consistency import ConversationRead
from queries.inherited_items import is_inherited, path_along
from queries.paging import CursorParam, PageQuery, unknown_cursor
from queries.query_context import MAX_POSITION, QueryContext
from queries.tenant_views import Ids


class AsOfQuery(QueryParameters):
    as_of: int | None = Field(
        None,
        ge=1,
        description="The version to read at. Default: the newest. Items that were deleted since then are shown without content and with `blanked: true`. A caller with the scope `audit` sees their content.",
    )

    def version(self, read: ConversationRead) -> int:
        """Raises ApiError (400) if the conversation has no such version yet."""
        if self.as_of is not None and self.as_of > read.version:
            message = f"`as_of` is after the conversation's version {read.version}."
            raise ApiError(400, message, code="invalid_value", param="as_of")
        return self.as_of or read.version


class PathQuery(AsOfQuery):
    branch: int | None = Field(
        None,
        ge=0,
        le=MAX_POSITION,
        description="The number of a branch: the list has the items on the path to the end of this branch. Default: the active path.",
    )
    leaf: str | None = Field(
        None, description="The id of an item: the list has the items on the path that ends with this item."
    )

    @field_validator("leaf")
    @classmethod
    def _is_item_id(cls, leaf: str | None) -> str | None:
        if leaf is not None and not is_id(leaf):
            raise ApiError(400, "`leaf` is not an id of this store.", code="invalid_id", param="leaf")
        return leaf

    @property
    def is_active_path(self) -> bool:
        return self.branch is None and self.leaf is None


class ItemPlace(Struct, frozen=True):
    """Where an item is in a conversation. In a fork, an inherited item lies on branch 0, at version 0."""

    conversation_id: str
    branch: int
    depth: int
    version: int


PLACE_FIELDS = ItemPlace.__struct_fields__


def place_of(document: Document) -> ItemPlace:
    return ItemPlace(*(document[name] for name in PLACE_FIELDS))


async def find_place(context: QueryContext, read: ConversationRead, item_id: str) -> ItemPlace | None:
    """The item may be inherited or deleted."""
    document = await context.find_document(read, "items", item_id, *PLACE_FIELDS)
    if document is None:
        return None
    if document["conversation_id"] == read.conversation_id:
        return place_of(document)
    return ItemPlace(read.conversation_id, 0, document["depth"], 0) if is_inherited(read, document) else None


async def path_to_read(context: QueryContext, read: ConversationRead, query: PathQuery) -> Path:
    """Raises ApiError: 404 if there is no such branch or item, 400 for a wrong query."""
    version = query.version(read)
    if query.branch is not None and query.leaf is not None:
        message = "`branch` and `leaf` name different paths: send one of them."
        raise ApiError(400, message, code="mutually_exclusive_parameters", param="leaf")
    if query.is_active_path:
        return await active_path(read, version)
    end = PathBranch(query.branch or 0)
    if query.leaf is not None:
        item = await find_place(context, read, query.leaf)
        if item is None or item.version > version:
            message = f"There is no item {query.leaf} in this conversation at version {version}."
            raise ApiError(404, message, code="item_not_found", param="leaf")
        end = PathBranch(item.branch, item.depth, item.version)
    branches = await branches_to(read.log, read.conversation_id, end, until=version)
    if branches is None:
        message = f"This conversation has no branch {end.branch} at version {version}."
        raise ApiError(404, message, code="branch_not_found", param="branch")
    return path_along(read, version, branches)


async def active_path(read: ConversationRead, version: int) -> Path:
    branches = read.active_path
    if version < read.moved_at:
        branches = await active_branches(read.log, read.conversation_id, version)
    return path_along(read, version, branches)


class Bounds(Struct, frozen=True):
    """Both depths are included."""

    min_depth: int = 1
    max_depth: int | None = None


async def bounds_of(
    context: QueryContext, read: ConversationRead, path: Path, page: PageQuery, known_places: Mapping[str, ItemPlace]
) -> Bounds:
    """The depths between the page's cursors. `known_places`: places that were read already, by item id.

    A cursor may lie beside the path, for example because the head was moved. Then the items after the cursor
    begin after the last item that the path shares with the path to the cursor. Raises ApiError (400) for an unknown
    cursor.
    """
    params: tuple[CursorParam, CursorParam] = ("after", "before") if page.ascending else ("before", "after")
    first, last = [await _cursor_place(context, read, param, getattr(page, param), known_places) for param in params]
    return Bounds(
        1 if first is None else await _depth_on(read, path, first) + 1, None if last is None else last.depth - 1
    )


async def places_in_view(context: QueryContext, conversation_id: str, page: PageQuery) -> dict[str, ItemPlace]:
    """The places of cursors that the view already shows. A place never changes."""
    cursors = [cursor for cursor in (page.after, page.before) if cursor is not None]
    if not cursors:
        return {}
    collection = context.dependencies.consistency.positions.last_collection("items")
    of_conversation = {"$match": {"conversation_id": conversation_id}}
    documents = await context.dependencies.views.aggregate(collection, Ids(cursors), [of_conversation])
    return {document["id"]: place_of(document) async for document in documents}


async def _cursor_place(
    context: QueryContext,
    read: ConversationRead,
    param: CursorParam,
    cursor: str | None,
    known_places: Mapping[str, ItemPlace],
) -> ItemPlace | None:
    if cursor is None:
        return None
    if cursor in known_places:
        return known_places[cursor]
    item = await find_place(context, read, cursor)
    if item is None:
        raise unknown_cursor(param, "an item of this conversation")
    return item


async def _depth_on(read: ConversationRead, path: Path, item: ItemPlace) -> int:
    """The depth of the last item that `path` shares with the path to `item`."""
    if path.contains(item.conversation_id, item.branch, item.depth, item.version):
        return item.depth
    end = PathBranch(item.branch, item.depth, item.version)
    branches = await branches_to(read.log, item.conversation_id, end)
    return common_depth(path.end.branches, branches) if branches else item.depth


def filters(
    tenant: str,
    path: Path,
    bounds: Bounds,
    *,
    ascending: bool,
    count: int,
    condition: Callable[[ItemRange], Document] = lambda _: {},
) -> Iterator[Document]:
    """Filters of the path's items, in the order in which they are read.

    Without a `condition`, each filter but the last matches at least `count` items, because a range has an item at each
    depth.
    """
    together: list[ItemRange] = []
    items = 0
    for on_branch in item_ranges(path, descending=not ascending):
        item_range = on_branch.within(bounds.min_depth, bounds.max_depth)
        if item_range is None:
            continue
        together.append(item_range)
        items += 0 if item_range.last_depth is None else item_range.last_depth - item_range.first_depth + 1
        if items >= count:
            yield _any_of(tenant, together, condition)
            together, items = [], 0
    if together:
        yield _any_of(tenant, together, condition)


def _any_of(tenant: str, ranges: list[ItemRange], condition: Callable[[ItemRange], Document]) -> Document:
    """MongoDB plans an `$or` of many ranges faster if each has only what differs between the ranges."""
    selections: list[Document] = []
    for _, group in groupby(ranges, key=lambda each: (each.conversation_id, each.version)):
        first, *others = group
        branch_filters = [each.place_filter for each in (first, *others)]
        selections.append(
            {
                **first.segment_filter(tenant),
                **condition(first),
                **({"$or": branch_filters} if others else branch_filters[0]),
            }
        )
    return selections[0] if len(selections) == 1 else {"$or": selections}
