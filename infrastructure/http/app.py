"""Makes each API's app.

FastAPI's `APIRouter` only describes the routes. Starlette's `Route` serves requests, because with FastAPI an append
took 1.5 times the CPU time.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from infrastructure.http.compression import CompressionMiddleware
from infrastructure.http.connections import Connections
from infrastructure.http.docs_page import docs_routes
from infrastructure.http.door import AccessMiddleware, Authenticator, opened
from infrastructure.http.errors import ApiError, answer_error
from infrastructure.http.limits import LimitsMiddleware
from infrastructure.http.openapi import TITLE, DescribedRoute, document_of
from infrastructure.http.operations import Operation
from infrastructure.http.readiness import Check, Liveness, Readiness, readiness, run_checks
from infrastructure.http.request_middleware import RequestMiddleware
from infrastructure.http.served_paths import allowed_methods, not_served
from infrastructure.http.shapes import json_response
from infrastructure.http.web_pages import WebPages
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.metrics import Metrics

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def make_app(
    title: str,
    routers: Sequence[APIRouter],
    *,
    sockets: Sequence[WebSocketRoute] = (),
    lifespan: Lifespan,
    metrics: Metrics,
    authenticator: Authenticator,
    limiter: Limiter,
    web_pages: WebPages,
    connections: Connections | None = None,
) -> Starlette:
    """`lifespan` puts what the routes need on `app.state`. `app.state.openapi()` makes the OpenAPI document."""

    @asynccontextmanager
    async def whole_lifespan(app: Starlette) -> AsyncIterator[None]:
        # The limiter closes last, because replies that the app stops still have tokens to count.
        async with opened(authenticator), limiter.opened(), lifespan(app):
            yield

    declared = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    @cache
    def document() -> Mapping[str, Any]:
        return document_of(title, declared)

    app = Starlette(
        routes=[
            *(Route(route.path, route.endpoint, methods=route.methods, name=route.name) for route in declared),
            *documentation_routes(document),
            *sockets,
            WebSocketRoute("/{path:path}", _refuse_socket),
        ],
        middleware=[
            *middleware(metrics, connections, authenticator, web_pages),
            Middleware(LimitsMiddleware, limiter=limiter),
        ],
        # Without this handler, Starlette would answer each HTTPException itself.
        exception_handlers={HTTPException: answer_http_error},
        lifespan=whole_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.openapi = document
    return app


def middleware(
    metrics: Metrics, connections: Connections | None, authenticator: Authenticator, web_pages: WebPages
) -> list[Middleware]:
    """The outermost middleware comes first."""
    return [
        Middleware(RequestMiddleware, metrics=metrics, web_pages=web_pages),
        Middleware(AccessMiddleware, authenticator=authenticator),
        Middleware(CompressionMiddleware, connections=connections or Connections()),
    ]


async def _refuse_socket(_: WebSocket) -> None:
    """Without this route, Starlette would answer with 403."""
    raise HTTPException(404)


async def answer_http_error(request: HTTPConnection, error: Exception) -> Response:
    """The answer to an HTTPException."""
    if type(error) is HTTPException and error.status_code in (404, 405):
        return _answer_unserved(request)
    return await answer_error(request, error)


def _answer_unserved(request: HTTPConnection) -> Response:
    path = request.scope["path"]
    allowed = allowed_methods(path)
    if request.scope["type"] == "websocket":
        return ApiError(
            404,
            "This process serves no WebSocket at this path. The write API serves one at `/v1/responses`.",
            code="unknown_url",
        ).response()
    if not allowed:
        return ApiError(404, not_served(path), code="unknown_url").response()
    if request.scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={"allow": allowed})
    message = f"The path does not allow this method. It allows {allowed}."
    return ApiError(405, message, code="method_not_allowed", headers={"allow": allowed}).response()


def documentation_routes(document: Callable[[], Mapping[str, Any]]) -> list[Route]:
    """`document` is called at each request, so it should cache its result."""

    async def openapi(_: Request) -> Response:
        return json_response(document())

    return [Route("/openapi.json", openapi), *docs_routes(TITLE)]


def health_router(checks: Callable[[], Mapping[str, Check]], needed: frozenset[str]) -> APIRouter:
    """`/health/ready` answers 200 while every check named in `needed` passes."""
    router = APIRouter()

    async def live(_: Request) -> Response:
        """Answers while the process runs."""
        return json_response(Liveness(status="live"))

    async def ready(_: Request) -> Response:
        """Checks what requests need, such as the stores and the views. 503 while requests cannot be served."""
        return readiness(await run_checks(checks()), needed)

    for path, endpoint, name, operation in (
        ("/health/live", live, "get_liveness", Operation(answer=Liveness)),
        (
            "/health/ready",
            ready,
            "get_readiness",
            Operation(answer=Readiness, errors=(503,), error_bodies={503: Readiness}),
        ),
    ):
        router.routes.append(
            DescribedRoute(
                path,
                endpoint,
                method="GET",
                name=name,
                tag="health",
                description=inspect.getdoc(endpoint),
                operation=operation,
            )
        )

    return router
