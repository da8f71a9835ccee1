"""A proxy in front of Postgres that disturbs an append in one round trip.

https://www.postgresql.org/docs/current/protocol-message-formats.html
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


class Interference(Enum):
    """What the proxy does to the next append. Ready is the answer's last message. Sync makes the append commit.

    `LATE`: the client is disconnected, and the server gets the append when `release` is set.
    """

    READY_IS_LOST = auto()
    READY_IS_GARBLED = auto()
    READY_COMES_TWICE = auto()
    SYNC_IS_LOST = auto()
    LATE = auto()


class InterferingProxy:
    """Disturbs an append, and forwards everything else. `done` is set when a late append was executed.

    `lose_insert`: the next append under the lock is lost. The client learns this after the late append was executed.
    `lose_select`: the next SELECT of streams is lost, and then every connection breaks.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        self.url = self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self.release, self.done = threading.Event(), threading.Event()
        self.interfered = 0
        self.down = False
        self.lose_insert = self.lose_select = False
        self._late_append_first = False
        self._next: Interference | None = None
        self._opened: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def interfere(self, interference: Interference) -> None:
        self._next = interference

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
            applied: list[Interference] = []
            for target, sockets in ((self._forward, (client, server)), (self._back, (server, client))):
                self._threads.append(threading.Thread(target=target, args=(*sockets, applied), daemon=True))
                self._threads[-1].start()

    def _forward(self, client: socket.socket, server: socket.socket, applied: list[Interference]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if self.down or self._is_lost(data):
                    server.shutdown(socket.SHUT_RDWR)
                    if self._late_append_first:
                        self.release.set()
                        self.done.wait(10)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if self._next is not None and data.startswith(b"B") and _APPEND in data:
                    applied.append(self._next)
                    self._next = None
                    self.interfered += 1
                    if applied[0] is Interference.SYNC_IS_LOST:
                        assert data.endswith(_SYNC)
                        server.sendall(data.removesuffix(_SYNC))
                        self.release.wait()
                        return
                    if applied[0] is Interference.LATE:
                        client.shutdown(socket.SHUT_RDWR)
                        self.release.wait()
                        server.sendall(data)
                        continue  # the client sends no more; `_back` waits for the answer
                server.sendall(data)
            if Interference.LATE not in applied:
                server.shutdown(socket.SHUT_WR)

    def _is_lost(self, data: bytes) -> bool:
        if self.lose_select and b"AS s (tenant, id, version" in data:
            self.lose_select, self.down = False, True
            return True
        if self.lose_insert and b"append_at_once($" in data:
            self.lose_insert, self._late_append_first = False, True
            return True
        return False

    def _back(self, server: socket.socket, client: socket.socket, applied: list[Interference]) -> None:
        buffer = b""
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if not applied:
                    client.sendall(data)
                    continue
                buffer += data
                while len(buffer) >= 5 and len(buffer) > (length := struct.unpack("!i", buffer[1:5])[0]):
                    message, buffer = buffer[: length + 1], buffer[length + 1 :]
                    self._answer(message, client, applied[0])

    def _answer(self, message: bytes, client: socket.socket, interference: Interference) -> None:
        is_ready = message.startswith(b"Z")
        if interference is Interference.LATE:
            if is_ready:
                self.done.set()
        elif interference is Interference.READY_COMES_TWICE:
            client.sendall(message * 2 if is_ready else message)
        elif interference is Interference.READY_IS_GARBLED:
            if is_ready:
                client.sendall(b"Z" + struct.pack("!i", 40_000) + b"I")
        elif not is_ready:
            client.sendall(message)


@contextmanager
def interfering_proxy(url: str) -> Iterator[InterferingProxy]:
    proxy = InterferingProxy(url)
    yield proxy
    proxy.close()
