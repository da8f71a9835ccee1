"""How an API is served: uvicorn with one event loop, on sockets that are given or on HOST and PORT. A `main.py` calls it."""

import socket
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

from infrastructure.settings import Settings

GRACE_SECONDS = 10


def serve(app: ASGIApp, settings: Settings, sockets: Sequence[socket.socket] = ()) -> None:
    """Serves until SIGTERM or SIGINT; then what runs may finish, for GRACE_SECONDS."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        backlog=2048,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=list(sockets) or None)
