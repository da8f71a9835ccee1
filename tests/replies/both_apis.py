"""Both APIs in this process behind one app. GET goes to the read API, other methods to the write API."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from threading import Event

import httpx
import httpx2
import uvicorn
from msgspec import Struct
from openai import AsyncOpenAI
from starlette.types import ASGIApp, Receive, Scope, Send

import commands.main
import queries.main
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import MONGO_VIEWS
from tests.documented_answers import checked_answers
from tests.principals import HeaderAuthenticator
from tests.queries.conftest import eventually
from tests.queries.manual_projector import ManualProjector


class BothApis(Struct, frozen=True):
    """Clients of both APIs. The clients get a stream only after its end."""

    http: httpx.AsyncClient
    sdk: AsyncOpenAI
    projector: ManualProjector
    app: ASGIApp
    metrics: Metrics


@asynccontextmanager
async def open_both_apis(
    settings: Settings, *, with_principals: bool = False, views: Collection[str] = MONGO_VIEWS
) -> AsyncIterator[BothApis]:
    """Opens both APIs, and a projector that runs only when a test calls it.

    `with_principals`: a header names the principal. `views`: the views that the projector updates.
    """
    authenticator = HeaderAuthenticator() if with_principals else None
    metrics = Metrics()
    command_app = commands.main.create_app(settings, metrics, Event(), authenticator=authenticator)
    query_app = queries.main.create_app(settings, metrics, Event(), authenticator=authenticator)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (query_app if scope.get("method") == "GET" else command_app)(scope, receive, send)

    checks = [checked_answers("commands", command_app), checked_answers("queries", query_app)]
    hooks = {"response": [check for side in checks for check in side["response"]]}
    projector = ManualProjector(settings, views)
    async with (
        command_app.router.lifespan_context(command_app),
        query_app.router.lifespan_context(query_app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://store", timeout=30, event_hooks=hooks
        ) as http,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), timeout=30) as transport,
    ):
        await projector.open()
        sdk = AsyncOpenAI(base_url="http://store/v1", api_key="any", max_retries=0, http_client=transport)
        yield BothApis(http, sdk, projector, app, metrics)
        await projector.close()


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Serves the app on a port. The client receives each part of a stream as soon as it is sent."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client
    server.should_exit = True
    await serving
