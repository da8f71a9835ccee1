"""The open WebSockets of a process, and when each must end."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from commands.response_body import MAX_INPUT_BYTES
from commands.unstored_replies import UnstoredReplies
from infrastructure.observability.metrics import Metrics

CHECK_SECONDS = 0.25

EndReason = Literal["stopping", "too_old", "unused", "not_admitted"]


class SocketLimits(Struct, frozen=True, kw_only=True):
    max_seconds: float = 60 * 60.0
    """The Open Responses specification has this limit."""

    unused_seconds: float = 15 * 60.0
    """How long a socket may have neither a message nor a running reply."""

    unstored_bytes: int = 64 * 1024 * 1024
    """The maximum for the items of all unstored replies that the process remembers."""


class OpenSocket:
    def __init__(self) -> None:
        self.opened_at = time.monotonic()
        self.used_at = self.opened_at
        self.is_answering = False
        self.end: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        """Gets a result when the socket must be closed. A running answer is finished first."""

    def begin_answer(self) -> None:
        self.is_answering = True

    def end_answer(self) -> None:
        self.is_answering = False
        self.used_at = time.monotonic()


class OpenSockets:
    def __init__(self, metrics: Metrics, shutdown: threading.Event, limits: SocketLimits | None = None) -> None:
        self._limits = limits or SocketLimits()
        self.unstored = UnstoredReplies(self._limits.unstored_bytes, MAX_INPUT_BYTES)
        self._metrics = metrics
        self._shutdown = shutdown
        self._sockets: set[OpenSocket] = set()
        self._checking: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._checking = asyncio.create_task(self._keep_checking())

    def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()

    @contextmanager
    def opened(self) -> Iterator[OpenSocket]:
        socket = OpenSocket()
        self._sockets.add(socket)
        self._metrics.open_sockets.inc()
        try:
            yield socket
        finally:
            self._metrics.open_sockets.dec()
            self._sockets.discard(socket)
            self.unstored.forget(socket)

    async def _keep_checking(self) -> None:
        while True:
            now = time.monotonic()
            for socket in self._sockets:
                if not socket.end.done() and (reason := self._end_of(socket, now)) is not None:
                    socket.end.set_result(reason)
            await asyncio.sleep(CHECK_SECONDS)

    def _end_of(self, socket: OpenSocket, now: float) -> EndReason | None:
        if self._shutdown.is_set():
            return "stopping"
        if now - socket.opened_at >= self._limits.max_seconds:
            return "too_old"
        is_unused = not socket.is_answering and now - socket.used_at >= self._limits.unused_seconds
        return "unused" if is_unused else None
