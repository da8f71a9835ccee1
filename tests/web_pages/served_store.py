"""A whole store in this process: both APIs on one port, and a projector."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn

from infrastructure.http.connections import Connections
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.websocket_protocol import bounded_websocket
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import MONGO_VIEWS
from scripts.gateway import create_app
from tests.queries.conftest import open_projector
from tests.servers import loopback_listener


@asynccontextmanager
async def served_store(
    settings: Settings, metrics: Metrics, views: Collection[str] = MONGO_VIEWS
) -> AsyncIterator[httpx.AsyncClient]:
    """The projector updates `views`. Yields a client of the store."""
    async with _served(settings, metrics) as http, open_projector(settings, views) as projector:
        stop = asyncio.Event()
        projecting = asyncio.create_task(projector.run(stop))
        yield http
        stop.set()
        await projecting


@asynccontextmanager
async def _served(settings: Settings, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    shutdown, connections = threading.Event(), Connections()
    config = uvicorn.Config(
        create_app(settings, metrics, shutdown, connections),
        http=bounded_protocol(connections),
        ws=bounded_websocket(connections),
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    with loopback_listener() as listener:
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as http:
            async with asyncio.timeout(30):
                while not server.started or (await http.get("/health/ready")).status_code != 200:  # noqa: ASYNC110 - no event says when the store is ready
                    await asyncio.sleep(0.02)
            yield http
        shutdown.set()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Any:
        yield  # the test process keeps its own signal handlers
