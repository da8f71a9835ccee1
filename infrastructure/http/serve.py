"""Serves an API with uvicorn, and its metrics on METRICS_PORT."""

import gc
import math
import resource
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from infrastructure.http.body import MAX_ITEMS_BODY_BYTES
from infrastructure.http.connections import Connections
from infrastructure.http.metrics_server import serve_metrics
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.websocket_protocol import PING_SECONDS, bounded_websocket
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
SHUTDOWN_TIMEOUT_SECONDS = 10
OPEN_FILES = 65_536

RECENT_COLLECTIONS = 1_000
"""How many collections of recent objects come before a full one. Python's default is 10.

A full collection stops all requests for 30 to 170 ms, and found no garbage in the benchmarks.
"""


def serve(
    app: ASGIApp,
    settings: Settings,
    metrics: Metrics,
    shutdown: threading.Event,
    connections: Connections,
    *,
    sockets: Sequence[socket.socket] = (),
) -> None:
    """Serves until a signal, or until the app sets `shutdown`. Without a signal, the process exits with status 1."""
    # After `gc.freeze`, the garbage collector does not scan the half a million objects of imported modules.
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, RECENT_COLLECTIONS)
    allow_open_files()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(connections),
        loop="uvloop",
        ws=bounded_websocket(connections),
        ws_max_size=MAX_ITEMS_BODY_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(connections.limits.idle_seconds),
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )
    server = _Server(config, settings, metrics, shutdown)
    server.run(sockets=list(sockets) or None)
    if not server.signalled:
        sys.exit(1)


def allow_open_files() -> None:
    """Raises the limit of open files, because each client of a stream needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Sets `shutdown` before uvicorn waits for running requests, because streams would not end by themselves."""

    def __init__(self, config: uvicorn.Config, settings: Settings, metrics: Metrics, shutdown: threading.Event) -> None:
        super().__init__(config)
        self._settings = settings
        self._metrics = metrics
        self._shutdown = shutdown
        self.signalled = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        settings = self._settings
        async with serve_metrics(self._metrics, settings.metrics_port, host=settings.metrics_host) as port:
            log.info("metrics_served", port=port)
            await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signalled = True
        self._shutdown.set()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._shutdown.is_set()
