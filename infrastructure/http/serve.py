"""Serves an API: uvicorn with one event loop, on given sockets or on HOST and PORT."""

import gc
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infrastructure.ids import mint
from infrastructure.settings import Settings

BACKLOG = 2048
MAX_HEAD_BYTES = 64 * 1024
SHUTDOWN_TIMEOUT_SECONDS = 10

KEEP_ALIVE_TIMEOUT_SECONDS = 75
"""Longer than that of proxies (nginx: 60 s), so that none sends a request on a connection that is closing."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose request line and headers together have at most MAX_HEAD_BYTES. Malformed requests get a JSON error."""

    _head_bytes = 0
    """Bytes of the current request's head so far, plus 1; 0 outside a head."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 1

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"The request line and headers are larger than {MAX_HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are not an HTTP request, and closes the connection."""
        if self.transport.is_closing():
            return
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": "malformed_request"}
        body = msgspec.json.encode({"error": error})
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {mint('req')}\r\n"
            "x-should-retry: false\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def serve(app: ASGIApp, settings: Settings, shutdown: threading.Event, sockets: Sequence[socket.socket] = ()) -> None:
    """Serves until SIGTERM or SIGINT. Then sets `shutdown`, and running requests have SHUTDOWN_TIMEOUT_SECONDS to finish.

    Also stops when the app sets `shutdown`. Without a signal, the process exits with status 1.
    """
    # Imported modules live as long as the process. Once frozen, their half a million objects are not scanned by the garbage collector.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )
    server = _Server(config, shutdown)
    server.run(sockets=list(sockets) or None)
    if not server.signalled:
        sys.exit(1)


class _Server(uvicorn.Server):
    """Sets `shutdown` at the signal, before it waits for running requests: streams would not end by themselves."""

    def __init__(self, config: uvicorn.Config, shutdown: threading.Event) -> None:
        super().__init__(config)
        self._shutdown = shutdown
        self.signalled = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signalled = True
        self._shutdown.set()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._shutdown.is_set()
