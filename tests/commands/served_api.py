"""Serves the command API on a port, for tests with real connections."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from commands.main import create_app
from commands.open_sockets import SocketLimits
from infrastructure.http.body import MAX_ITEMS_BODY_BYTES
from infrastructure.http.connections import Connections
from infrastructure.http.door import Authenticator
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.websocket_protocol import bounded_websocket
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.servers import loopback_listener

ENDS = ("response.completed", "response.failed", "response.incomplete", "error")


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the test process keeps its own signal handlers


class ServedApi:
    """The command API on a port. `stop` acts like SIGTERM."""

    def __init__(self, port: int, server: uvicorn.Server, shutdown: threading.Event, metrics: Metrics) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.http = httpx.AsyncClient(base_url=self.base_url, timeout=60)
        self.metrics = metrics
        self._server = server
        self._shutdown = shutdown

    def stop(self) -> None:
        self._shutdown.set()
        self._server.should_exit = True

    def socket(self, **headers: str) -> Any:
        """In the names of `headers`, write `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.base_url}/v1/responses".replace("http", "ws", 1)
        return connect(url, additional_headers=named, max_size=None)


@asynccontextmanager
async def served_api(
    settings: Settings, socket_limits: SocketLimits | None = None, authenticator: Authenticator | None = None
) -> AsyncIterator[ServedApi]:
    shutdown, metrics, connections = threading.Event(), Metrics(), Connections()
    config = uvicorn.Config(
        create_app(settings, metrics, shutdown, connections, socket_limits=socket_limits, authenticator=authenticator),
        http=bounded_protocol(connections),
        ws=bounded_websocket(connections),
        ws_max_size=MAX_ITEMS_BODY_BYTES,
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    with loopback_listener() as listener:
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        api = ServedApi(listener.getsockname()[1], server, shutdown, metrics)
        async with api.http:
            async with asyncio.timeout(30):
                while not server.started or (await api.http.get("/health/ready")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            try:
                yield api
            finally:
                api.stop()
                await serving


async def create(client: ClientConnection, text: Any = "hi", **parameters: Any) -> list[dict[str, Any]]:
    """Sends a `response.create`. Returns all events of the answer."""
    await client.send(json.dumps({"type": "response.create", "input": text, **parameters}))
    return await answer_of(client)


async def answer_of(client: ClientConnection) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while not events or events[-1]["type"] not in ENDS:
            events.append(json.loads(await client.recv()))
    return events


async def response_to(client: ClientConnection, text: Any = "hi", **parameters: Any) -> dict[str, Any]:
    """Returns the response, which must be completed."""
    last = (await create(client, text, **parameters))[-1]
    assert last["type"] == "response.completed", last
    response: dict[str, Any] = last["response"]
    return response


async def error_to(client: ClientConnection, text: Any = "hi", **parameters: Any) -> tuple[int, str, str | None]:
    """Status, code and param of the single error."""
    [error] = await create(client, text, **parameters)
    return socket_error(error)


def socket_error(event: dict[str, Any]) -> tuple[int, str, str | None]:
    assert event["type"] == "error", event
    assert isinstance(event["error"]["message"], str)
    return event["status"], event["error"]["code"], event["error"]["param"]


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    """Waits until the server closes. Returns the code and the reason."""
    async with asyncio.timeout(20):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "cut off without a reason"  # noqa: PT017 - it may come at any message
            return closed.rcvd.code, closed.rcvd.reason
