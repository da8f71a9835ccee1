"""A proxy in front of Postgres that delays a commit, or the answer to a commit.

The append lock is held while a commit is delayed.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

Part = Literal["commit", "answer"]
CommitKind = Literal["at once", "COMMIT"]
"""How an append commits: in one round trip, or with the COMMIT of a transaction."""

_ENCRYPTION_REQUESTS = (80877103, 80877104)


class DelayingProxy:
    """`delay` delays the next commit or its answer. `delaying` is set during the delay.

    `lose`: the connection is cut after the delay. `seconds`: the delay ends then, if `release` did not end it before.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._parts = urlsplit(url)
        self.seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        self.url = self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self.delaying = threading.Event()
        self.delayed: list[CommitKind] = []
        self._next: tuple[Part, bool] | None = None
        self._lock = threading.Lock()
        self._released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def delay(self, part: Part, *, lose: bool = False) -> None:
        with self._lock:
            self._next = (part, lose)

    def release(self) -> None:
        """Ends the delay, and any later one."""
        self._released.set()

    def close(self) -> None:
        self._released.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._parts.hostname, self._parts.port))
            state = _ConnectionState()
            threading.Thread(target=self._forward, args=(client, server, state), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, state), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, state: "_ConnectionState") -> None:
        messages = _Messages()
        with client, server:
            try:
                while data := client.recv(65536):
                    for message, kind in messages.split(data):
                        part, lose = self._take(kind) if kind else (None, False)
                        if part == "commit":
                            self._wait()
                            if lose:
                                server.shutdown(socket.SHUT_RDWR)
                                return
                        elif part == "answer":
                            state.lose = lose
                            state.delay_answer.set()
                        server.sendall(message)
                server.shutdown(socket.SHUT_WR)
            except OSError:
                return
            finally:
                state.ended.wait(5)

    def _back(self, server: socket.socket, client: socket.socket, state: "_ConnectionState") -> None:
        try:
            while data := server.recv(65536):
                if state.delay_answer.is_set():
                    state.delay_answer.clear()
                    self._wait()
                    if state.lose:
                        break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            state.ended.set()

    def _take(self, kind: CommitKind) -> tuple[Part | None, bool]:
        with self._lock:
            if self._next is None:
                return None, False
            delay, self._next = self._next, None
            self.delayed.append(kind)
            return delay

    def _wait(self) -> None:
        self.delaying.set()
        self._released.wait(self.seconds)
        self.delaying.clear()


class _ConnectionState:
    """Shared by the two directions of one connection."""

    def __init__(self) -> None:
        self.delay_answer = threading.Event()
        self.ended = threading.Event()
        self.lose = False


class _Messages:
    """Finds the messages that commit an append."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._statements: dict[bytes, bytes] = {}
        self._bound = b""
        self._in_transaction = False
        self._append_ran = False

    def split(self, data: bytes) -> Iterator[tuple[bytes, CommitKind | None]]:
        self._buffer += data
        while (message := self._next()) is not None:
            yield message, self._commit_kind(message[:1], message[5:])

    def _next(self) -> bytes | None:
        """The next whole message, or None. The first messages have no type byte, and may request encryption."""
        length_at, needed = (1, 5) if self._started else (0, 8)
        if len(self._buffer) < needed:
            return None
        length: int = struct.unpack_from("!i", self._buffer, length_at)[0]
        if len(self._buffer) < length_at + length:
            return None
        if not self._started:
            self._started = struct.unpack_from("!i", self._buffer, 4)[0] not in _ENCRYPTION_REQUESTS
        message, self._buffer = self._buffer[: length_at + length], self._buffer[length_at + length :]
        return message

    def _commit_kind(self, message_type: bytes, body: bytes) -> CommitKind | None:
        match message_type:
            case b"Q":
                return self._run(body)
            case b"P":  # the statement's name, its text
                name, text = body.split(b"\0", 2)[:2]
                self._statements[name] = text
            case b"B":  # the portal's name, the statement's name; after a PREPARE, the text is not known
                name = body.split(b"\0", 2)[1]
                self._bound = self._statements.get(name, name)
            case b"E":
                self._append_ran = self._append_ran or (b"append_at_once" in self._bound and not self._in_transaction)
                return self._run(self._bound)
            case b"S" if self._append_ran:
                self._append_ran = False
                return "at once"
        return None

    def _run(self, text: bytes) -> CommitKind | None:
        if text.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK")):
            self._in_transaction = text.startswith(b"BEGIN")
        return "COMMIT" if text.startswith(b"COMMIT") else None


@contextmanager
def delaying_proxy(url: str, seconds: float = 1.0) -> Iterator[DelayingProxy]:
    proxy = DelayingProxy(url, seconds)
    yield proxy
    proxy.close()
