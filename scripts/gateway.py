"""Both APIs behind one port, in one process: GET and HEAD read, everything else writes. `nginx` does this in production.

The gateway itself answers OPTIONS, the OpenAPI of both sides together, and a readiness that covers both.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands import main as commands
from infrastructure.http.request_middleware import RequestMiddleware
from infrastructure.http.openapi import both_sides, docs_page
from infrastructure.http.shapes import json_response
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries

_READS = ("GET", "HEAD")
_ALLOW = {"allow": "GET, HEAD, POST, DELETE, OPTIONS"}


class Gateway:
    """The rule: a request goes to the side that its method names; a few paths are the gateway's own."""

    def __init__(self, writing: ASGIApp, reading: ASGIApp, own: Starlette) -> None:
        self._writing = writing
        self._reading = reading
        self._own = own
        self._own_paths = {route.path for route in own.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or scope["method"] == "OPTIONS"
            or (scope["method"] in _READS and scope["path"] in self._own_paths)
        ):
            await self._own(scope, receive, send)
        elif scope["method"] in _READS:
            await self._reading(scope, receive, send)
        else:
            await self._writing(scope, receive, send)


def create_app(settings: Settings) -> ASGIApp:
    """The gateway over both sides; its lifespan is theirs."""
    configure_logging("api", settings.log_level, settings.log_format)
    metrics = Metrics()
    writing = commands.create_app(settings, metrics)
    reading = queries.create_app(settings, metrics)
    return Gateway(writing, reading, _own_app(writing, reading, metrics))


def _own_app(writing: FastAPI, reading: FastAPI, metrics: Metrics) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in (writing, reading):
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    async def options(_: Request) -> Response:
        return Response(status_code=204, headers=_ALLOW)

    async def openapi(_: Request) -> Response:
        return json_response(both_sides(writing, reading))

    async def docs(_: Request) -> Response:
        return docs_page()

    async def ready(_: Request) -> Response:
        return joined(await asyncio.gather(_ask_ready(writing), _ask_ready(reading)))

    routes = [
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Route("/health/ready", ready),
        Route("/{path:path}", options, methods=["OPTIONS"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(RequestMiddleware, metrics=metrics)])


def joined(answers: Sequence[tuple[int, dict[str, Any]]]) -> Response:
    """One readiness out of both sides': as bad as the worse of them, with the checks of both."""
    checks = {name: state for _, body in answers for name, state in body["checks"].items()}
    worst = max((body["status"] for _, body in answers), key=("ready", "degraded", "unavailable").index)
    status = max(code for code, _ in answers)
    return json_response({"status": worst, "checks": checks}, status, {} if status == 200 else {"retry-after": "1"})


async def _ask_ready(app: ASGIApp) -> tuple[int, dict[str, Any]]:
    """(status, body) of an app's /health/ready, asked without a network."""
    status = 503
    body = b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body += message.get("body", b"")

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/health/ready",
        "raw_path": b"/health/ready",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": None,
        "client": None,
        "state": {},
    }
    await app(scope, receive, send)
    return status, msgspec.json.decode(body)
