"""Serves `/metrics` on a port of its own, without a credential."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infrastructure.http.connections import Connections
from infrastructure.http.errors import answer_error
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.readiness import readiness
from infrastructure.http.shapes import json_response
from infrastructure.observability.metrics import Metrics

SHUTDOWN_TIMEOUT_SECONDS = 1


@asynccontextmanager
async def serve_metrics(
    metrics: Metrics, port: int, checks: Callable[[], Mapping[str, bool]] | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Serves `/metrics`, and with `checks` also `/health/live` and `/health/ready`. Yields the port.

    `port` 0 takes a free port. Raises OSError if the port is taken.
    """
    config = uvicorn.Config(
        metrics_app(metrics, checks),
        http=bounded_protocol(Connections()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def metrics_app(metrics: Metrics, checks: Callable[[], Mapping[str, bool]] | None) -> Starlette:

    async def metrics_page(_: Request) -> Response:
        body, content_type = metrics.render()
        return Response(body, media_type=content_type)

    health = [] if checks is None else _health_routes(checks)
    return Starlette(
        routes=[Route("/metrics", metrics_page), *health], exception_handlers={HTTPException: answer_error}
    )


def _health_routes(checks: Callable[[], Mapping[str, bool]]) -> list[Route]:
    async def live(_: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(_: Request) -> Response:
        passed = checks()
        return readiness(passed, needed=frozenset(passed))

    return [Route("/health/live", live), Route("/health/ready", ready)]


class _Server(uvicorn.Server):
    """The process handles the signals, and stops this server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
