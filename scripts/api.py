"""One API process: both sides behind one port, served by uvicorn.

`python -m scripts.api [--fd N …]` serves on listening sockets that it inherits from `scripts/up`, so that connections wait
in their queue while the process is replaced; without `--fd` it binds HOST and PORT itself.
"""

import argparse
import socket
import uuid

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infrastructure.settings import Settings
from scripts.gateway import create_app

BACKLOG = 2048
LARGEST_HEAD = 64 * 1024
GRACEFUL_SECONDS = 10
# Longer than proxies keep theirs (nginx: 60 s), so that none sends a request into a connection that is closing.
KEEP_ALIVE_SECONDS = 75


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
            if self._head > LARGEST_HEAD:
                self.send_400_response(f"The request line and headers are larger than {LARGEST_HEAD} bytes.")

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
            f"x-request-id: req_{uuid.uuid4().hex}\r\n"
            "x-should-retry: false\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fd", type=int, action="append", help="a listening socket to serve on")
    inherited: list[int] = parser.parse_args().fd or []
    settings = Settings()
    config = uvicorn.Config(
        create_app(settings),
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
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    sockets = [socket.socket(fileno=fd) for fd in inherited]
    uvicorn.Server(config).run(sockets=sockets or None)


if __name__ == "__main__":
    main()
