"""How an API is served: uvicorn with one event loop, on sockets that are given or on HOST and PORT. A `main.py` calls it."""

import gc
import socket
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
GRACE_SECONDS = 10

stopping = threading.Event()
"""Set when this process was told to stop: who follows something for ever looks at it."""

KEEP_ALIVE_SECONDS = 75
"""Longer than proxies keep theirs (nginx: 60 s), so that none sends a request into a connection that is closing."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose request line and headers may not grow past 64 kB (and one read), and whose refusals are JSON like ours."""

    _head = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 1

    def on_headers_complete(self) -> None:
        self._head = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head:
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES:
                self.send_400_response(f"The request line and headers are larger than {MAX_HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Answers what never became a request, and hangs up."""
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


def serve(app: ASGIApp, settings: Settings, sockets: Sequence[socket.socket] = ()) -> None:
    """Serves until SIGTERM or SIGINT; then what runs may finish, for GRACE_SECONDS."""
    # What was imported stays as long as the process: no collection need look at half a million objects for it again.
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
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config).run(sockets=list(sockets) or None)


class _Server(uvicorn.Server):
    """Says that it stops as soon as it is told to, so that streams without an end of their own can end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        stopping.set()
        super().handle_exit(sig, frame)
