"""A way to Postgres that meddles with one append in a single round trip: it sees messages one by one, and does one thing to them.

What each thing is, `Meddling` says. https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from urllib.parse import urlsplit

_APPEND = b"\0append_at_once\0"
_SYNC = b"S\0\0\0\4"


class Meddling(Enum):
    """`READY_IS_LOST`: the answer comes, but not the word that the server is ready. `READY_IS_GARBLED`: instead of it all
    comes what is no message. `READY_COMES_TWICE`: the second one is nobody's. `SYNC_IS_LOST`: the server never gets the last message, with which the append commits.
    `LATE`: the client is cut off, and the server gets the append when `release` is set.
    """

    READY_IS_LOST = auto()
    READY_IS_GARBLED = auto()
    READY_COMES_TWICE = auto()
    SYNC_IS_LOST = auto()
    LATE = auto()


class MeddlingProxy:
    """`url` leads through it. `meddle(…)`: with the next append. `done` is set when a late append was carried out.

    `lose_insert`: the first append under the lock is lost as it is sent, and what is late is carried out before the client hears of
    that. `lose_look`: the first look at the streams is lost, and the way is `down` from then on.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        self.url = self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self.release, self.done = threading.Event(), threading.Event()
        self.met = 0
        self.down = False
        self.lose_insert = self.lose_look = False
        self._late_first = False
        self._next: Meddling | None = None
        self._opened: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def meddle(self, how: Meddling) -> None:
        self._next = how

    def close(self) -> None:
        self.release.set()
        self._listener.close()
        for opened in self._opened:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for opened in self._opened:
            opened.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection((self._parts.hostname, self._parts.port))
            self._opened += (client, server)
            how: list[Meddling] = []
            for target, ends in ((self._forward, (client, server)), (self._back, (server, client))):
                self._threads.append(threading.Thread(target=target, args=(*ends, how), daemon=True))
                self._threads[-1].start()

    def _forward(self, client: socket.socket, server: socket.socket, how: list[Meddling]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if self.down or self._is_lost(data):
                    server.shutdown(socket.SHUT_RDWR)
                    if self._late_first:
                        self.release.set()
                        self.done.wait(10)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if self._next is not None and data.startswith(b"B") and _APPEND in data:
                    how.append(self._next)
                    self._next = None
                    self.met += 1
                    if how[0] is Meddling.SYNC_IS_LOST:
                        assert data.endswith(_SYNC)
                        server.sendall(data.removesuffix(_SYNC))
                        self.release.wait()
                        return
                    if how[0] is Meddling.LATE:
                        client.shutdown(socket.SHUT_RDWR)
                        self.release.wait()
                        server.sendall(data)
                        continue  # the client sends no more; what the server answers is awaited in `_back`
                server.sendall(data)
            if Meddling.LATE not in how:
                server.shutdown(socket.SHUT_WR)

    def _is_lost(self, data: bytes) -> bool:
        """Whether this is what is to be lost."""
        if self.lose_look and b"AS s (id, version)" in data:
            self.lose_look, self.down = False, True
            return True
        if self.lose_insert and b"append_at_once($" in data:
            self.lose_insert, self._late_first = False, True
            return True
        return False

    def _back(self, server: socket.socket, client: socket.socket, how: list[Meddling]) -> None:
        rest = b""
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if not how:
                    client.sendall(data)
                    continue
                rest += data
                while len(rest) >= 5 and len(rest) > (length := struct.unpack("!i", rest[1:5])[0]):
                    message, rest = rest[: length + 1], rest[length + 1 :]
                    self._answer(message, client, how[0])

    def _answer(self, message: bytes, client: socket.socket, how: Meddling) -> None:
        is_ready = message.startswith(b"Z")
        if how is Meddling.LATE:
            if is_ready:
                self.done.set()
        elif how is Meddling.READY_COMES_TWICE:
            client.sendall(message * 2 if is_ready else message)
        elif how is Meddling.READY_IS_GARBLED:
            if is_ready:
                client.sendall(b"Z" + struct.pack("!i", 40_000) + b"I")
        elif not is_ready:
            client.sendall(message)


@contextmanager
def meddling(url: str) -> Iterator[MeddlingProxy]:
    proxy = MeddlingProxy(url)
    yield proxy
    proxy.close()
