"""A proxy between a client and the store. Keeps each request that has a body."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec import Struct

_OF_ONE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding"})
FORWARD_TIMEOUT_SECONDS = 60.0


class Sent(Struct, frozen=True):
    """A request with a body.

    `status` and `conversation`: the answer's status and its `X-Conversation-Id`.
    """

    path: str
    body: Any
    status: int
    conversation: str | None


class RecordingProxy:
    """Forwards requests to the store. `sent`: the requests with a body."""

    def __init__(self, store_port: int) -> None:
        self.store_port = store_port
        self.sent: list[Sent] = []
        handler = type("Bound", (_Exchange,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Exchange(BaseHTTPRequestHandler):
    proxy: RecordingProxy

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers["content-length"])))

    def _forward(self, body: bytes) -> None:
        store = http.client.HTTPConnection("127.0.0.1", self.proxy.store_port, timeout=FORWARD_TIMEOUT_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        store.request(self.command, self.path, body or None, headers)
        answer = store.getresponse()
        if body:
            conversation = answer.headers["x-conversation-id"]
            self.proxy.sent.append(Sent(self.path, json.loads(body), answer.status, conversation))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.end_headers()
        while part := answer.read1():
            self.wfile.write(part)
            self.wfile.flush()
        store.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the parent class
        """Logs nothing."""


@contextmanager
def recording_proxy(store_port: int) -> Iterator[RecordingProxy]:
    proxy = RecordingProxy(store_port)
    try:
        yield proxy
    finally:
        proxy.close()
