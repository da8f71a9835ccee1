"""A proxy in front of Postgres that can lose the answers to commits."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CuttingProxy:
    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        self.url = self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self.lost = 0
        self.seen = 0
        self._to_lose = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_commits(self, count: int) -> None:
        self._to_lose = count

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._parts.hostname, self._parts.port))
            cut = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, cut), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with client, server:
            try:
                while data := client.recv(65536):
                    if (data.startswith(b"Q") and b"COMMIT" in data[:32]) or b"\0append_at_once\0" in data:
                        with self._lock:
                            self.seen += 1
                            if self._to_lose:
                                self._to_lose -= 1
                                self.lost += 1
                                cut.set()
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)
            except OSError:
                return
            cut.wait(5)

    def _back(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        try:
            while data := server.recv(65536):
                if cut.is_set():  # the answer to the commit
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
        except OSError:
            pass  # the client's connection must end too
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(url: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(url)
    yield proxy
    proxy.close()
