"""A proxy in front of Postgres that ends connections like a dying server.

The last message and the end of the connection arrive together.
"""

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

_SELECT_SECONDS = 0.02


class EndingProxy:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server_address = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials = parts.netloc.rpartition("@")[0]
        self.url = parts._replace(netloc=f"{credentials}@127.0.0.1:{self._listener.getsockname()[1]}").geturl()
        self._lock = threading.Lock()
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._servers: dict[socket.socket, socket.socket] = {}
        """The sockets to the server, by the socket to the client."""
        # One thread serves all connections, because another thread inside `recv` would keep a connection open after
        # `end`.
        threading.Thread(target=self._forward, daemon=True).start()

    def end(self, last_bytes: bytes, *, reset: bool) -> None:
        """Sends these bytes to each client and closes its connection.

        `reset`: closes with a TCP reset, like a server that has not read everything.
        """
        with self._lock:
            for client in list(self._servers):
                client.sendall(last_bytes)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._close(client)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for client in list(self._servers):
                self._close(client)
            self._listener.close()

    def _forward(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(_SELECT_SECONDS):
                with self._lock:  # `end` or `close` may have closed the connection
                    if key.data is None and not self._closed:
                        self._accept()
                    elif key.data in self._servers:
                        self._forward_data(cast("socket.socket", key.fileobj), key.data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = self._servers[client] = socket.create_connection(self._server_address)
        for end in (client, server):
            self._selector.register(end, selectors.EVENT_READ, data=client)

    def _forward_data(self, source: socket.socket, client: socket.socket) -> None:
        target = self._servers[client] if source is client else client
        try:
            data = source.recv(65536)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(client)

    def _close(self, client: socket.socket) -> None:
        for end in (client, self._servers.pop(client)):
            self._selector.unregister(end)
            end.close()


@contextmanager
def ending_proxy(url: str) -> Iterator[EndingProxy]:
    proxy = EndingProxy(url)
    yield proxy
    proxy.close()


def last_message(kind: bytes, severity: bytes, text: bytes) -> bytes:
    """A server's last message: a notice (kind `N`) or an error (kind `E`).

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    fields = (b"S" + severity, b"V" + severity, b"C57P02", b"M" + text)
    body = b"".join(field + b"\0" for field in fields) + b"\0"
    return kind + struct.pack("!i", len(body) + 4) + body
