"""A way to Postgres that is slow at the worst moment: it holds a commit back for a while, or keeps the answer to one.

A commit is held back when all that leads to it was run, and so the append lock is taken: an append in one round trip commits at
its Sync, one that said BEGIN at its COMMIT. https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

Part = Literal["commit", "answer"]
Way = Literal["at once", "COMMIT"]
"""How an append is committed: in one round trip, or as the end of a transaction of several."""

_ASKS_FOR_ENCRYPTION = (80877103, 80877104)


class DelayingProxy:
    """`url` leads through it. `hold("commit")`: the next commit reaches the server late; `hold("answer")`: its answer the client.

    With `lose` it never does: the connection is cut instead. `holding` is set while one waits; `held` has how each was committed.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._parts = urlsplit(url)
        self.seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        self.url = self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self.holding = threading.Event()
        self.held: list[Way] = []
        self._next: tuple[Part, bool] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, part: Part, *, lose: bool = False) -> None:
        with self._lock:
            self._next = (part, lose)

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._parts.hostname, self._parts.port))
            kept = _Kept()
            threading.Thread(target=self._forward, args=(client, server, kept), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, kept), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, kept: "_Kept") -> None:
        messages = _Messages()
        with client, server:
            try:
                while data := client.recv(65536):
                    for message, way in messages.of(data):
                        part, lose = self._take(way) if way else (None, False)
                        if part == "commit":
                            self._wait()
                            if lose:
                                server.shutdown(socket.SHUT_RDWR)
                                return
                        elif part == "answer":
                            kept.lose = lose
                            kept.keep.set()
                        server.sendall(message)
                server.shutdown(socket.SHUT_WR)
            except OSError:
                return
            finally:
                kept.ended.wait(5)

    def _back(self, server: socket.socket, client: socket.socket, kept: "_Kept") -> None:
        try:
            while data := server.recv(65536):
                if kept.keep.is_set():
                    kept.keep.clear()
                    self._wait()
                    if kept.lose:
                        break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            kept.ended.set()

    def _take(self, way: Way) -> tuple[Part | None, bool]:
        with self._lock:
            if self._next is None:
                return None, False
            taken, self._next = self._next, None
            self.held.append(way)
            return taken

    def _wait(self) -> None:
        self.holding.set()
        self._closed.wait(self.seconds)
        self.holding.clear()


class _Kept:
    """What the two directions of one connection know of each other."""

    def __init__(self) -> None:
        self.keep = threading.Event()
        self.ended = threading.Event()
        self.lose = False


class _Messages:
    """What a client sends, message by message, with the way of committing of the one that commits an append."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._statements: dict[bytes, bytes] = {}
        self._bound = b""
        self._in_transaction = False
        self._appended = False

    def of(self, data: bytes) -> Iterator[tuple[bytes, Way | None]]:
        self._rest += data
        while (message := self._next()) is not None:
            yield message, self._way(message[:1], message[5:])

    def _next(self) -> bytes | None:
        """The next whole message. The first ones have no type, and may ask for encryption before they begin."""
        length_at, needed = (1, 5) if self._started else (0, 8)
        if len(self._rest) < needed:
            return None
        length: int = struct.unpack_from("!i", self._rest, length_at)[0]
        if len(self._rest) < length_at + length:
            return None
        if not self._started:
            self._started = struct.unpack_from("!i", self._rest, 4)[0] not in _ASKS_FOR_ENCRYPTION
        message, self._rest = self._rest[: length_at + length], self._rest[length_at + length :]
        return message

    def _way(self, kind: bytes, body: bytes) -> Way | None:
        match kind:
            case b"Q":
                return self._runs(body)
            case b"P":  # the statement's name, its text
                name, text = body.split(b"\0", 2)[:2]
                self._statements[name] = text
            case b"B":  # the portal's name, the statement's; one made by PREPARE is known by its name
                name = body.split(b"\0", 2)[1]
                self._bound = self._statements.get(name, name)
            case b"E":
                self._appended = self._appended or (b"append_at_once" in self._bound and not self._in_transaction)
                return self._runs(self._bound)
            case b"S" if self._appended:
                self._appended = False
                return "at once"
        return None

    def _runs(self, text: bytes) -> Way | None:
        if text.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK")):
            self._in_transaction = text.startswith(b"BEGIN")
        return "COMMIT" if text.startswith(b"COMMIT") else None


@contextmanager
def delaying(url: str, seconds: float = 1.0) -> Iterator[DelayingProxy]:
    proxy = DelayingProxy(url, seconds)
    yield proxy
    proxy.close()
