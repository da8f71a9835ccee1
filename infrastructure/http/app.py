"""How each API's FastAPI app is made: the same middleware, errors, routes, health and metrics on both sides."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Router, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from infrastructure.http.errors import add_error_handlers
from infrastructure.http.observe import Observe
from infrastructure.http.shapes import json_response
from infrastructure.observability.metrics import Metrics

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Check = Callable[[], Awaitable[bool]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

VERSION = "0.1.0"


class DirectRoute(APIRoute):
    """A route that FastAPI describes and Starlette runs: its endpoint takes the request, and nothing else."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = request_response(endpoint)


class App(FastAPI):
    """An app whose requests go straight to their routes; an error is for `Observe` to answer.

    What the frameworks put in between, each layer a coroutine around the next, is a third of an append's time and a fifth of a read's.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = _Straight(self.router)
        for middleware in reversed(self.user_middleware):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app


class _Straight:
    """The routes in their order, and the router for what none of them serves."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._routes = [route for route in router.routes if isinstance(route, APIRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._router
        if scope["type"] == "http":
            for route in self._routes:
                if scope["method"] in (route.methods or ()) and (found := route.path_regex.match(scope["path"])):
                    scope["route"], scope["path_params"] = route, found.groupdict()
                    if isinstance(route, DirectRoute):
                        response = await route.endpoint(Request(scope, receive))
                        await response(scope, receive, send)
                        return
                    app = route.app
                    break
        async with AsyncExitStack() as files:
            scope["fastapi_middleware_astack"] = files  # as FastAPI's outermost layer does
            await app(scope, receive, send)


def make_app(title: str, routers: list[APIRouter], *, lifespan: Lifespan, metrics: Metrics) -> FastAPI:
    """An app with these routes. What its routes need, `lifespan` puts on `app.state`."""
    app = App(
        title=title,
        version=VERSION,
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        middleware=[Middleware(Observe, metrics=metrics)],
        redirect_slashes=False,
    )
    add_error_handlers(app)
    for router in routers:
        app.router.routes.extend(router.routes)  # as they are: an included router is searched anew for every request
    return app


def reads(router: APIRouter, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
    """Serves an endpoint at `path` for GET, and for HEAD, which the documentation need not name."""

    def register(endpoint: Endpoint) -> Endpoint:
        router.add_api_route(path, endpoint, methods=["GET"], **options)
        router.add_api_route(path, endpoint, methods=["HEAD"], **{**options, "include_in_schema": False})
        return endpoint

    return register


def health_router(metrics: Metrics, checks: Callable[[], Mapping[str, Check]], needed: frozenset[str]) -> APIRouter:
    """`/health/live`, `/health/ready` and `/metrics`. Ready is 200 while every check in `needed` passes."""
    router = APIRouter(tags=["health"], route_class=DirectRoute)

    @reads(router, "/health/live")
    async def live(_: Request) -> Response:
        return json_response({"status": "live"})

    @reads(router, "/health/ready")
    async def ready(_: Request) -> Response:
        return readiness(await run_checks(checks()), needed)

    @reads(router, "/metrics", include_in_schema=False)
    async def metrics_page(_: Request) -> Response:
        body, content_type = metrics.render()
        return Response(body, media_type=content_type)

    return router


async def run_checks(checks: Mapping[str, Check]) -> dict[str, bool]:
    """Each check's answer; one that fails or raises or takes longer than 2 s is a no. All run at once."""

    async def one(check: Check) -> bool:
        try:
            async with asyncio.timeout(2):
                return await check()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not there
            return False

    answers = await asyncio.gather(*(one(check) for check in checks.values()))
    return dict(zip(checks, answers, strict=True))


def readiness(passed: Mapping[str, bool], needed: frozenset[str]) -> Response:
    """`{status: ready|degraded|unavailable, checks}`: 200 while what is needed is there, else 503."""
    serving = all(passed.get(name, False) for name in needed)
    status = "unavailable" if not serving else "ready" if all(passed.values()) else "degraded"
    body = {"status": status, "checks": {name: "ok" if ok else "failed" for name, ok in passed.items()}}
    return json_response(body, 200 if serving else 503, {} if serving else {"retry-after": "1"})
