"""A keep-alive HTTP/1.1 connection. It uses little CPU, so that the client is not the bottleneck."""

import asyncio
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools
import msgspec
from msgspec import Struct

CONNECT_TIMEOUT_SECONDS = 5.0
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Answer(Struct, frozen=True):
    """The names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class ConnectionEnded(ConnectionError):
    """There was no complete answer. If the request was sent, its outcome is unknown."""


class Connection(asyncio.Protocol):
    """Sends one request at a time. After an error the connection is closed and cannot be used again.

    A user name in the URL is sent as a bearer token.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._authorization = [f"authorization: Bearer {parts.username}"] if parts.username else []
        self._prefix = parts.path.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser: Any = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    @classmethod
    async def open(cls, base_url: str) -> Self:
        """Raises OSError, also after CONNECT_TIMEOUT_SECONDS."""
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: cls(base_url),
                parts.hostname or "127.0.0.1",
                parts.port or (443 if secure else 80),
                ssl=ssl.create_default_context() if secure else None,
            )
        return connection

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        seconds: float = 30.0,
    ) -> Answer:
        """Raises ConnectionEnded, or TimeoutError after `seconds`."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionEnded("the connection is closed")
        head = [f"{method} {self._prefix}{path} HTTP/1.1", f"host: {self._host}", f"content-length: {len(body)}"]
        head += self._authorization
        head += [f"{name}: {value}" for name, value in headers.items()]
        self._waiting = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write("\r\n".join(head).encode() + b"\r\ncontent-type: application/json\r\n\r\n" + body)
        try:
            async with asyncio.timeout(seconds):
                return await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting = None

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # no request waits for an answer
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, cause: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            ended = ConnectionEnded("the connection ended without a complete HTTP answer")
            ended.__cause__ = cause
            self._waiting.set_exception(ended)
        self.close()

    # called by the parser

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(status, self._headers, b"".join(self._body)))
