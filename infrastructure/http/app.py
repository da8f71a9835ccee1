"""Makes each API's app, with the same middleware, errors, documentation, health and metrics for both.

A route is declared on FastAPI's `APIRouter`, which describes it in the OpenAPI document. Starlette's `Route` serves it: its
endpoint takes the request and returns a response. FastAPI's own serving took 1.5 times the CPU of an append.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infrastructure.http.errors import answer_error
from infrastructure.http.openapi import docs_page
from infrastructure.http.request_middleware import RequestMiddleware
from infrastructure.http.shapes import json_response
from infrastructure.observability.metrics import Metrics

Check = Callable[[], Awaitable[bool]]
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]

VERSION = "0.1.0"
CHECK_TIMEOUT_SECONDS = 2


def make_app(title: str, routers: Sequence[APIRouter], *, lifespan: Lifespan, metrics: Metrics) -> Starlette:
    """An app with these routes. `lifespan` puts what they need on `app.state`. `app.state.openapi` is the OpenAPI document."""
    declared = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    document = get_openapi(title=title, version=VERSION, routes=declared)
    app = Starlette(
        routes=[
            *(Route(route.path, route.endpoint, methods=route.methods, name=route.name) for route in declared),
            *documentation_routes(document),
        ],
        middleware=[Middleware(RequestMiddleware, metrics=metrics)],
        # For 404 and 405, which Starlette would answer itself. Every other error reaches the middleware.
        exception_handlers={HTTPException: answer_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.openapi = document
    return app


def documentation_routes(document: Mapping[str, Any]) -> list[Route]:
    """`/openapi.json`, and the page that shows it."""

    async def openapi(_: Request) -> Response:
        return json_response(document)

    async def docs(_: Request) -> Response:
        return docs_page()

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def health_router(metrics: Metrics, checks: Callable[[], Mapping[str, Check]], needed: frozenset[str]) -> APIRouter:
    """`/health/live`, `/health/ready` and `/metrics`. `/health/ready` answers 200 while every check named in `needed` passes."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live(_: Request) -> Response:
        return json_response({"status": "live"})

    @router.get("/health/ready")
    async def ready(_: Request) -> Response:
        return readiness(await run_checks(checks()), needed)

    @router.get("/metrics", include_in_schema=False)
    async def metrics_page(_: Request) -> Response:
        body, content_type = metrics.render()
        return Response(body, media_type=content_type)

    return router


async def run_checks(checks: Mapping[str, Check]) -> dict[str, bool]:
    """Runs all checks at once. A check that raises or takes longer than CHECK_TIMEOUT_SECONDS has failed."""

    async def passes(check: Check) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await check()
        except Exception:  # noqa: BLE001 - any error means that the check failed
            return False

    results = await asyncio.gather(*(passes(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


def readiness(passed: Mapping[str, bool], needed: frozenset[str]) -> Response:
    """`{status: ready|degraded|unavailable, checks}`: 200 while every needed check passes, else 503."""
    serving = all(passed.get(name, False) for name in needed)
    status = "unavailable" if not serving else "ready" if all(passed.values()) else "degraded"
    body = {"status": status, "checks": {name: "ok" if ok else "failed" for name, ok in passed.items()}}
    return json_response(body, 200 if serving else 503, {} if serving else {"retry-after": "1"})
