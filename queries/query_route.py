"""Registers the route of a query. The route checks the ids and parameters of each request."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from infrastructure.access.principal import Scope
from infrastructure.http.door import principal_with
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import single_header
from infrastructure.http.limits import count_request
from infrastructure.http.openapi import DescribedRoute
from infrastructure.http.operations import Operation, header_parameters, path_parameters, query_parameters
from infrastructure.http.path_ids import id_names, path_ids
from infrastructure.http.query_parameters import QueryParameters, check_names
from queries.not_modified import NotModified, check_header, not_modified, unless_unmodified
from queries.query_context import MAX_POSITION, ProcessDependencies, QueryContext

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])

REQUEST_HEADERS = {"X-Min-Position": "The answer must show at least this position of the log."}
IF_NONE_MATCH = {
    "If-None-Match": "Entity tags of answers that the client has, or `*`. If the answer has one of them, it is a 304 without a body.",
}
CONVERSATION_HEADERS = ("ETag", "X-Consistency")
ERRORS = (400, 401, 403, 429, 500, 503)


def query_route(
    router: APIRouter,
    path: str,
    query: type[QueryParameters] | None = None,
    *,
    scope: Scope = "read",
    headers: Mapping[str, str] | None = None,
    parameters: tuple[dict[str, Any], ...] = (),
    answer: type | None,
    events: type | None = None,
    has_ranges: bool = False,
    answer_headers: tuple[str, ...] = ("X-Consistency",),
    errors: tuple[int, ...] = (),
) -> Callable[[Handler], Handler]:
    """Registers the handler of a GET, which also serves HEAD.

    The handler gets the QueryContext, each id in the path and, if there is a `query`, the query parameters. The
    arguments from `headers` on are for the OpenAPI document.
    """
    names = id_names(path)

    def register(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            principal = principal_with(request, scope)
            await count_request(request)
            arguments: list[Any] = [*path_ids(request, names)]
            dependencies: ProcessDependencies = request.app.state.dependencies
            context = QueryContext(dependencies.of(principal), principal, min_position(request.headers), request)
            if query is None:
                check_names(request, lambda _: False)
            else:
                arguments.append(query.from_request(request))
            check_header(request)
            try:
                return unless_unmodified(request, await handler(context, *arguments))
            except NotModified as error:
                return not_modified(error.tag)

        has_tag = "ETag" in answer_headers
        operation = Operation(
            parameters=(
                *path_parameters(names),
                *(query_parameters(query) if query is not None else ()),
                *parameters,
                *header_parameters({**REQUEST_HEADERS, **(IF_NONE_MATCH if has_tag else {}), **(headers or {})}),
            ),
            answer=answer,
            events=events,
            has_ranges=has_ranges,
            answer_headers=answer_headers,
            may_be_unmodified=has_tag,
            errors=tuple(sorted({*ERRORS, *((404,) if names else ()), *errors})),
        )
        router.routes.append(
            DescribedRoute(
                path,
                endpoint,
                method="GET",
                name=handler.__name__,
                tag=str(router.tags[0]),
                description=inspect.getdoc(handler),
                operation=operation,
                scope=scope,
            )
        )
        return handler

    return register


def min_position(headers: Headers) -> int:
    """0 without the header. Raises ApiError (400)."""
    text = single_header(headers, "X-Min-Position")
    if text is None:
        return 0
    if re.fullmatch(r"[0-9]{1,19}", text) is None or int(text) > MAX_POSITION:
        raise ApiError(
            400, "`X-Min-Position` must be a position of the log.", code="invalid_header", param="X-Min-Position"
        )
    return int(text)
