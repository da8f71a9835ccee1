"""GET /v1/keys: the tenant's API keys, for an admin, from Postgres."""

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from infrastructure.access.api_key import ApiKey
from infrastructure.http.path_ids import check_id
from infrastructure.http.shapes import encode, json_response
from infrastructure.ids import KEY
from queries.paging import MAX_PAGE_BYTES, CursorParam, Page, PageQuery, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["keys"])


class ApiKeyList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of API keys."""

    data: list[ApiKey]
    first_id: str | None
    last_id: str | None
    has_more: bool


@query_route(router, "/v1/keys", PageQuery, scope="admin", answer=ApiKeyList, answer_headers=())
async def list_keys(context: QueryContext, query: PageQuery) -> Response:
    """A page of the tenant's API keys, newest first, including keys that have expired or were revoked."""
    keys, tenant = context.dependencies.api_keys, context.principal.tenant
    await _check_cursor(context, "after", query.after)
    await _check_cursor(context, "before", query.before)
    lower, upper = (query.after, query.before) if query.ascending else (query.before, query.after)
    found = await keys.page(
        tenant, lower=lower, upper=upper, limit=query.limit + 1, ascending=query.ascending != query.is_backwards
    )
    page = Page(limit=query.limit, max_bytes=MAX_PAGE_BYTES)
    for key in found:
        page.add(key.id, encode(key))
    return json_response(page.body(is_backwards=query.is_backwards))


async def _check_cursor(context: QueryContext, param: CursorParam, cursor: str | None) -> None:
    if cursor is None:
        return
    check_id(cursor, KEY, param)
    if await context.dependencies.api_keys.find(cursor, context.principal.tenant) is None:
        raise unknown_cursor(param, "an API key")
