"""Serves an API: uvicorn with one event loop, on given sockets or on HOST and PORT.

The API's metrics are served on METRICS_PORT.
"""

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
"""A full garbage collection follows this many collections of the middle generation, which happen every 7,000 new objects.

Python's default is 10. A full collection stops all requests for 30 to 170 ms of processor time. The longer the process
has run, the longer this takes. In the benchmarks, full collections found no garbage. A collection of the two young generations takes at
most a few milliseconds.
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
    """Serves until SIGTERM or SIGINT. Then sets `shutdown`, and running requests have SHUTDOWN_TIMEOUT_SECONDS to finish.

    Also stops when the app sets `shutdown`. If no signal has arrived, the process exits with status 1.
    """
    # Imported modules live as long as the process. After `gc.freeze`, the garbage collector does not scan their
    # half a million objects.
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
    """Raises the process's soft limit of open files to OPEN_FILES, or to the hard limit if that is lower.

    Each client of a stream needs an open file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Sets `shutdown` when a signal arrives, before uvicorn waits for running requests.

    Streams would not end by themselves.
    """

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
