"""Both APIs behind one port, in one process. With Docker, nginx does this.

The gateway itself serves the OpenAPI document, the page `/docs`, and a readiness check of both sides.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands import main as commands
from infrastructure.http.app import documentation_routes, middleware
from infrastructure.http.connections import Connections
from infrastructure.http.door import authenticator_of
from infrastructure.http.openapi import combined
from infrastructure.http.shapes import json_response
from infrastructure.http.web_pages import WebPages
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries

_READS = ("GET", "HEAD")


class Gateway:
    def __init__(self, command_app: ASGIApp, query_app: ASGIApp, own_app: Starlette) -> None:
        self._command_app = command_app
        self._query_app = query_app
        self._own_app = own_app
        self._own_paths = {route.path for route in own_app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._command_app(scope, receive, send)
        elif scope["type"] == "lifespan" or (scope["method"] in _READS and scope["path"] in self._own_paths):
            await self._own_app(scope, receive, send)
        elif scope["method"] in _READS:
            await self._query_app(scope, receive, send)
        else:
            await self._command_app(scope, receive, send)


def create_app(settings: Settings, metrics: Metrics, shutdown: threading.Event, connections: Connections) -> ASGIApp:
    """The gateway with both sides. `shutdown` ends the streams of both sides. `connections`: the server's connections."""
    authenticator = authenticator_of(settings)
    command_app = commands.create_app(settings, metrics, shutdown, connections, authenticator=authenticator)
    query_app = queries.create_app(settings, metrics, shutdown, connections, authenticator=authenticator)
    own_app = _own_app(command_app, query_app, middleware(metrics, connections, authenticator, WebPages.of(settings)))
    return Gateway(command_app, query_app, own_app)


def _own_app(command_app: Starlette, query_app: Starlette, middleware: Sequence[Middleware]) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in (command_app, query_app):
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    async def ready(_: Request) -> Response:
        return combined_readiness(await asyncio.gather(_readiness_of(command_app), _readiness_of(query_app)))

    @cache
    def document() -> Mapping[str, Any]:
        return combined(command_app.state.openapi(), query_app.state.openapi())

    routes = [
        *documentation_routes(document),
        Route("/health/ready", ready),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=middleware)


def combined_readiness(answers: Sequence[tuple[int, dict[str, Any]]]) -> Response:
    """The worse status of the two answers, and the checks of both."""
    checks: dict[str, str] = {}
    for _, body in answers:
        for name, state in body["checks"].items():
            if checks.get(name) != "failed":  # `failed` if the check fails on either side
                checks[name] = state
    worst = max((body["status"] for _, body in answers), key=("ready", "degraded", "unavailable").index)
    status = max(code for code, _ in answers)
    return json_response({"status": worst, "checks": checks}, status, {} if status == 200 else {"retry-after": "1"})


async def _readiness_of(app: ASGIApp) -> tuple[int, dict[str, Any]]:
    """(status, body) of an app's /health/ready, without a network."""
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
