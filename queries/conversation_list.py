"""GET /v1/conversations: pages of conversations by creation or by activity."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter
from msgspec import Struct
from pydantic import Field, ValidationInfo, field_validator
from starlette.responses import Response

from infrastructure.access.principal import Principal
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.path_ids import check_id
from infrastructure.ids import CONVERSATION, conversation_id, first_uuid_at, is_id
from projections.views.catalog import LIST_TERMS
from projections.views.conversations import activity_key, shared_with_subject
from projections.views.list_terms import (
    ALL,
    FIRST_VERSION_WITH_TERMS,
    TITLE_TERMS,
    metadata_term,
    owner_term,
    share_term,
    title_term,
)
from projections.views.search_text import fold, tokens
from projections.views.writes import Document
from queries.consistency import Read
from queries.conversations import FIELDS, conversation_shape
from queries.list_cursors import decode_cursor, encode_cursor, fingerprint, is_cursor
from queries.list_words import Words, words_of
from queries.log_access import PostgresUnavailable
from queries.metadata_filter import is_metadata_parameter, metadata_filter, metadata_parameter, with_metadata
from queries.paging import CursorParam, Page, PageQuery, fetch_page, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import query_route
from queries.search_terms import terms_from
from queries.time_range import Since, Until

router = APIRouter(tags=["conversations"])

MAX_TITLE_LENGTH = 512
FIRST_VERSION_BY_ACTIVITY = 4
"""The first version of the view that has `activity` and `archived`."""


class ConversationsQuery(PageQuery):
    after: str | None = Field(
        None,
        description="The page begins after this: `next_cursor` of another page, or an id if the list is ordered by creation.",
    )
    before: str | None = Field(
        None,
        description="The page ends before this: `previous_cursor` of another page, or an id if the list is ordered by creation.",
    )
    order_by: Literal["created", "activity"] = Field(
        "created", description="`activity`: by the time of the last change (`updated_at`)."
    )
    status: Literal["active", "ended"] | None = None
    archived: bool | None = Field(None, description="Default: both archived and other conversations.")
    owner: str | None = None
    shared: bool | None = Field(
        None, description="`true`: only those that others share with you. `false`: only your own."
    )
    title: str | None = Field(
        None,
        max_length=MAX_TITLE_LENGTH,
        description="Only conversations whose title has all these words. Case and accents do not count.",
    )
    since: Since = None
    until: Until = None

    @field_validator("after", "before")
    @classmethod
    def _is_id(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if cursor is not None and not is_cursor(cursor) and not is_id(cursor):
            message = f"`{info.field_name}` is neither a cursor nor an id of this store."
            raise ApiError(400, message, code="invalid_id", param=info.field_name)
        return cursor

    @classmethod
    def serves(cls, name: str) -> bool:
        return super().serves(name) or is_metadata_parameter(name)

    @property
    def field(self) -> Literal["id", "activity"]:
        return "id" if self.order_by == "created" else "activity"

    def fingerprint(self, metadata: Mapping[str, str]) -> bytes:
        return fingerprint([self.model_dump(exclude={"after", "before", "limit"}), metadata])


@query_route(
    router,
    "/v1/conversations",
    ConversationsQuery,
    parameters=(metadata_parameter("conversations"),),
    answer=shapes.ConversationList,
)
async def list_conversations(context: QueryContext, query: ConversationsQuery) -> Response:
    """A page of the listed conversations, newest first by default. A caller gets their own and those shared with them. An admin gets those of the whole tenant.

    Filters: `status`, `archived`, `owner`, `shared`, `title`, `since` and `until` (of the time that the list is ordered
    by), and any number of `metadata[key]=value`.
    """
    metadata = metadata_filter(context.request.query_params)
    in_title = _in_title(query.title)
    read = await context.read_tenant("conversations", "items")
    where = {"listed": True, **_filters(query, read)}
    has_terms = read.versions["conversations"] >= FIRST_VERSION_WITH_TERMS
    rare_terms = [
        *(each for each in in_title if isinstance(each, str)),
        *(metadata_term(*pair) for pair in metadata.items()),
    ]
    titled = [{TITLE_TERMS: each} for each in in_title]
    visible = [
        where
        | _all_of(*each.filters, *titled, with_metadata(metadata), *(each.indexed(rare_terms) if has_terms else ()))
        for each in _visible(query, context.principal, with_shares=read.verified)
    ]
    query_fingerprint = query.fingerprint(metadata)
    after = await _sort_key(context, query, "after", query.after, query_fingerprint)
    before = await _sort_key(context, query, "before", query.before, query_fingerprint)
    documents: dict[str, Document] = {}

    def entry(document: Document) -> bytes:
        documents[document["id"]] = document
        return shapes.encode(conversation_shape(document, Words()))

    page = await fetch_page(
        context,
        read,
        "conversations",
        visible[0],
        merged=visible[1:],
        field=query.field,
        page=query,
        after=after,
        before=before,
        fields=(*FIELDS, "activity"),
        entry_of=entry,
    )
    words = await words_of(context, read, [documents[conversation] for conversation in page.ids])
    page.entries = [
        shapes.encode(conversation_shape(documents[conversation], words[conversation])) for conversation in page.ids
    ]
    sort_keys = [documents[conversation][query.field] for conversation in page.ids]
    body = page.body(is_backwards=query.is_backwards, **_cursors(page, query, sort_keys, query_fingerprint))
    return shapes.json_response(body, headers=read.headers)


def _cursors(
    page: Page, query: ConversationsQuery, sort_keys: Sequence[str], query_fingerprint: bytes
) -> dict[str, str | None]:
    """`sort_keys`: in the order in which the documents were read."""
    if not sort_keys:
        return {"next_cursor": None, "previous_cursor": None}
    ends = [encode_cursor(query_fingerprint, sort_keys[0]), encode_cursor(query_fingerprint, sort_keys[-1])]
    if query.is_backwards:
        return {"next_cursor": ends[0], "previous_cursor": ends[1] if page.has_more else None}
    return {
        "next_cursor": ends[1] if page.has_more else None,
        "previous_cursor": None if query.after is None else ends[0],
    }


def _filters(query: ConversationsQuery, read: Read) -> Document:
    """`status` and `archived` come before the sort field in the indexes, so the filter names both once the view has
    them.

    Raises ApiError (503) if the view does not have a needed field yet.
    """
    where: Document = {"status": query.status or {"$in": ["active", "ended"]}}
    version = read.versions["conversations"]
    if version >= FIRST_VERSION_BY_ACTIVITY:
        where["archived"] = {"$in": [False, True]} if query.archived is None else query.archived
    elif query.order_by == "activity" or query.archived is not None:
        raise _not_built("lists by activity, and the filter `archived`,")
    if query.title is not None and version < FIRST_VERSION_WITH_TERMS:
        raise _not_built("the filter `title`")
    bounds = {
        operator: _beginning_of(seconds, query.field)
        for operator, seconds in (("$gte", query.since), ("$lte", query.until))
        if seconds is not None
    }
    return where | ({query.field: bounds} if bounds else {})


def _not_built(what: str) -> ApiError:
    message = (
        f"The view `conversations` is being built again after an upgrade. Until it is ready, {what} cannot be used."
    )
    return ApiError(503, message, code="read_models_behind")


def _in_title(title: str | None) -> list[Any]:
    """What the terms of a title must match: terms, and prefixes of terms. Raises ApiError (400) if there is no word.

    In scripts without spaces, pairs of adjacent characters are the words.
    """
    if title is None:
        return []
    terms: list[str] = []
    first_characters: list[str] = []
    for token in tokens(fold(title)):
        if not token.is_run:
            terms += token.terms
        elif len(token.terms) == 1:
            first_characters += token.terms
        else:
            # The last term is one character alone. In a title, another character may follow it.
            terms += token.terms[:-1]
    if not terms and not first_characters:
        raise ApiError(400, "`title` has no word.", code="invalid_value", param="title")
    exact = [title_term(term) for term in dict.fromkeys(terms)]
    return [*exact, *({"$elemMatch": terms_from(title_term(first))} for first in first_characters)]


def _all_of(*filters: Document) -> Document:
    found = [each for each in filters if each]
    return {"$and": found} if found else {}


def _beginning_of(seconds: int, field: Literal["id", "activity"]) -> str:
    """A value below the `field` of every conversation of this second, and above the `field` of every earlier conversation."""
    if field == "activity":
        return activity_key(seconds * 1_000_000)
    return conversation_id(first_uuid_at(seconds))


class _Visible(Struct, frozen=True):
    """Conversations that the caller may see. All have `term` in `lists`. `is_few`: no other term is rarer."""

    filters: Sequence[Document]
    term: str
    is_few: bool = False

    def indexed(self, rare_terms: Sequence[str]) -> list[Document]:
        """Filters for the index. MongoDB tries the index with each of these terms, and takes the fastest."""
        terms = [self.term] if self.is_few else [*rare_terms, *([] if rare_terms and self.term == ALL else [self.term])]
        return [{LIST_TERMS: term} for term in terms]


def _visible(query: ConversationsQuery, principal: Principal, *, with_shares: bool) -> list[_Visible]:
    """No conversation matches two of these selections."""
    subject, owner = principal.subject, query.owner
    if principal.may("admin") and query.shared is None:
        return [_Visible([], ALL) if owner is None else _Visible([{"owner": owner}], owner_term(owner))]
    found: list[_Visible] = []
    if query.shared is not True and owner in (None, subject):
        found.append(_Visible([{"owner": subject}], owner_term(subject)))
    if query.shared is not False and owner != subject:
        others: Document = {"owner": {"$ne": subject} if owner is None else owner}
        shares = shared_with_subject(subject) if with_shares else []
        for index, share in enumerate(shares):
            earlier = [{"shared_with": {"$nin": shares[:index]}}] if index else []
            found.append(_Visible([others, {"shared_with": share}, *earlier], share_term(share), is_few=True))
    return found or [_Visible([{"_id": {"$in": []}}], ALL)]


async def _sort_key(
    context: QueryContext, query: ConversationsQuery, param: CursorParam, cursor: str | None, query_fingerprint: bytes
) -> Any:
    """None without a cursor. Raises ApiError (400).

    In a list by creation, an id is a cursor too, even if its conversation is deleted. While Postgres is unavailable, any
    conversation id is accepted.
    """
    if cursor is None:
        return None
    if is_cursor(cursor):
        return decode_cursor(param, cursor, query_fingerprint)
    if query.order_by != "created":
        message = f"`{param}` is an id. A list by activity takes only `next_cursor` and `previous_cursor` of its pages."
        raise ApiError(400, message, code="invalid_cursor", param=param)
    check_id(cursor, CONVERSATION, param)
    try:
        head = await context.dependencies.log.head(cursor)
    except PostgresUnavailable:
        return cursor
    if head is None or head.role(context.principal) is None:
        raise unknown_cursor(param, "a conversation")
    return cursor
