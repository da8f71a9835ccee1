"""The query API in this process, with the real event log and projector.

`projector` updates the views when a test calls `catch_up`. `live` updates the views all the time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from threading import Event

import httpx
import pytest
import uvicorn

from infrastructure.event_log.log import EventLog
from infrastructure.http.connections import Connections
from infrastructure.http.door import Authenticator
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import MONGO_VIEWS
from queries.main import create_app
from tests.documented_answers import checked_answers
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer


@asynccontextmanager
async def open_api(
    settings: Settings, connections: Connections | None = None, authenticator: Authenticator | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Metrics(), Event(), connections, authenticator=authenticator)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        hooks = checked_answers("queries", app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://store", timeout=30, event_hooks=hooks
        ) as client:
            yield client


@asynccontextmanager
async def served(settings: Settings, authenticator: Authenticator | None = None) -> AsyncIterator[str]:
    """Serves the query API on a port. Yields its URL."""
    config = uvicorn.Config(
        create_app(settings, Metrics(), Event(), authenticator=authenticator),
        port=0,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for the condition. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings) as client:
        yield client


@pytest.fixture
async def write(settings: Settings) -> AsyncIterator[Writer]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield Writer(log)
    await log.close()


@asynccontextmanager
async def open_projector(settings: Settings, views: Collection[str] = MONGO_VIEWS) -> AsyncIterator[ManualProjector]:
    projector = ManualProjector(settings, views)
    await projector.open()
    try:
        yield projector
    finally:
        await projector.close()


@pytest.fixture
async def projector(settings: Settings) -> AsyncIterator[ManualProjector]:
    async with open_projector(settings) as opened:
        yield opened


@pytest.fixture
async def live(projector: ManualProjector) -> AsyncIterator[ManualProjector]:
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    yield projector
    stop.set()
    await running


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(settings.postgres_url)
    await proxy.restore()
    yield proxy
    await proxy.cut()


@pytest.fixture
async def cut_api(settings: Settings, postgres: Proxy) -> AsyncIterator[httpx.AsyncClient]:
    """The query API. It reaches Postgres through the proxy."""
    async with open_api(settings.model_copy(update={"postgres_url": postgres.url})) as client:
        yield client
