"""HTTP/1.1 with limits: uvicorn's protocol, extended.

A request for an upgrade other than WebSocket is served like a request without `Upgrade` (RFC 9110, 7.8).
"""

import asyncio
import math
import re
import socket
import sys
from typing import Literal

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infrastructure.http.connections import Connections, ReadWatch
from infrastructure.http.refusals import Refused, refusal_answer

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_UNSENT_BYTES = 128 * 1024
"""How much of an answer the kernel may hold unsent."""

TCP_NOTSENT_LOWAT = 25
"""The number of this socket option on Linux."""

_AUTHORITY_END = re.compile(rb"[/?#]")
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31} ")


class BoundedProtocol(HttpToolsProtocol):
    """A connection. A refused request gets a JSON error."""

    server_connections: Connections

    _waits_for: Literal["request", "head", "body"] = "request"
    _deadline = math.inf
    """When the client must have sent what the connection waits for, on the event loop's clock."""

    _head_bytes = 0
    """The bytes of the head after the chunk in which the head began."""

    _head_began_in_chunk = False
    _read_watch: ReadWatch
    _refused: Refused | None = None

    # Called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the parent's
        super().connection_made(transport)
        _limit_unsent(transport)
        self.parser = _Parser(self)  # type: ignore[assignment]  # it has the methods that the parent calls
        self._read_watch = ReadWatch(self.loop.time())
        self._wait_for("request")
        self.server_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_began_in_chunk = False
        super().data_received(data)
        if self._waits_for == "head" and not self._head_began_in_chunk:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_watch.client_has_read(self.loop.time())
        self.server_connections.client_has_read()

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._head_began_in_chunk = True
        self._wait_for("head")

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise self._refusal(Refused(501, "This server does not open tunnels.", "method_not_implemented"))
        if self.parser.should_upgrade() and not self.asks_for_websocket():
            return  # the parser will begin again without the upgrade
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            raise self._refusal(_head_too_large())
        if not self.url.startswith(b"/"):
            self.url = self._origin_form()
        if self.parser.should_upgrade():
            return  # the parser will pass the connection on
        self._wait_for("body")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._wait_for("body")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for("request")
        else:
            self._deadline = math.inf  # now the client waits for the answer

    # Called by the parent

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._deadline == math.inf and self.cycle.response_complete:
            self._wait_for("request")

    def send_400_response(self, msg: str) -> None:
        """Answers a refused request, or bytes that are no HTTP. Closes the connection."""
        self._refuse(self._refused or Refused(400, msg, "malformed_request"))

    # Called by `_Parser`

    def asks_for_websocket(self) -> bool:
        """Whether the parsed head opens a WebSocket. False while an earlier request is being answered."""
        return (
            self.ws_protocol_class is not None
            and self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and [value.lower() for name, value in self.headers if name == b"upgrade"] == [b"websocket"]
            and (self.cycle is None or self.cycle.response_complete)
        )

    def become_websocket(self, rest: bytes) -> None:
        """Passes the connection on to a WebSocket. `rest`: the bytes that came after the parsed head."""
        self._waits_for, self._deadline = "request", math.inf
        self.server_connections.remove(self)
        self.connections.discard(self)
        assert self.ws_protocol_class is not None
        protocol = self.ws_protocol_class(  # type: ignore[call-arg]  # the arguments that uvicorn gives its protocols
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(self._head(self.headers) + rest)

    def head_without_upgrade(self) -> bytes:
        return self._head([header for header in self.headers if header[0] != b"upgrade"])

    def note_invalid_method(self, start: bytes) -> None:
        """The parser refused the method at `start`. The answer is 501 if `start` has the form of a method."""
        if _METHOD.match(start):
            self._refusal(Refused(501, "This server does not know the method.", "method_not_implemented"))

    # Called by `Connections`

    @property
    def unread_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def check(self, now: float, write_seconds: float) -> None:
        if self._read_watch.seconds_without_reading(self.unread_bytes, now) >= write_seconds:
            log.info("connection_aborted", reason="answer_not_read", unread_bytes=self.unread_bytes)
            self.transport.abort()
            return
        if now >= self._deadline:
            self._end_wait()

    def _end_wait(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        match self._waits_for:
            case "request" if self.unread_bytes:
                self._wait_for("request")  # the client still reads the last answer
            case "request":
                self._deadline = math.inf
                self.transport.close()
            case "head" if is_answering:
                self._wait_for("head")  # a pipelined request: closing would cut off the answer to the request before it
            case "body" if self.flow.read_paused:
                self._wait_for("body")  # the application does not read, so the client cannot send
            case part:
                log.info("connection_closed", reason=f"{part}_not_received")
                self._refuse(Refused(408, f"The request's {part} did not arrive in time.", "request_timeout"))

    def _wait_for(self, part: Literal["request", "head", "body"]) -> None:
        limits = self.server_connections.limits
        seconds = {"request": limits.idle_seconds, "head": limits.head_seconds, "body": limits.body_seconds}[part]
        self._waits_for = part
        self._deadline = self.loop.time() + seconds

    def _refusal(self, refused: Refused) -> Refused:
        """Stores the error, because the parser replaces the error of a callback by its own error."""
        self._refused = refused
        return refused

    def _refuse(self, refused: Refused) -> None:
        """Sends the error, unless an answer has begun, and closes the connection."""
        self._deadline = math.inf
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(refusal_answer(refused))
        self.transport.close()

    def _head(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in headers]
        return b"\r\n".join([*lines, b"", b""])

    def _origin_form(self) -> bytes:
        """The path and query of an absolute URL. The target `*` of OPTIONS stays. Raises Refused."""
        if self.url == b"*":
            if self.parser.get_method() == b"OPTIONS":
                return self.url
            raise self._refusal(Refused(400, "Only OPTIONS has the target `*`.", "malformed_request"))
        # This host replaces the header `Host` (RFC 9112, 3.2.2).
        authority = _AUTHORITY_END.split(self.url.partition(b"://")[2], maxsplit=1)[0]
        self.headers[:] = [*(header for header in self.headers if header[0] != b"host"), (b"host", authority)]
        parts = httptools.parse_url(self.url)
        return (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")


class _Parser:
    """httptools' parser, extended for requests that ask for another upgrade than WebSocket.

    httptools stops after such a head. A new parser gets the head without `Upgrade`, and reads the body.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._parser = _new_parser(protocol)

    def feed_data(self, data: bytes) -> None:
        """Raises HttpParserError."""
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]  # the documented offset of the data that is not HTTP
                if self._protocol.asks_for_websocket():
                    self._protocol.become_websocket(bytes(rest))
                    return
                head = self._protocol.head_without_upgrade()
                self._parser = _new_parser(self._protocol)
                self._parser.feed_data(head)
            except httptools.HttpParserInvalidMethodError:
                self._protocol.note_invalid_method(bytes(rest[:64]))
                raise
            else:
                return

    def should_upgrade(self) -> bool:
        return self._parser.should_upgrade()

    def should_keep_alive(self) -> bool:
        return self._parser.should_keep_alive()

    def get_method(self) -> bytes:
        return self._parser.get_method()

    def get_http_version(self) -> str:
        return self._parser.get_http_version()


def _limit_unsent(transport: asyncio.Transport) -> None:
    """Limits what the kernel holds. Without this, the process notices too late that a slow client has read something."""
    connected = transport.get_extra_info("socket")
    if sys.platform == "linux" and connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)


def _new_parser(protocol: BoundedProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # As in uvicorn: bytes after a request with `Connection: close` are no error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def bounded_protocol(connections: Connections) -> type[BoundedProtocol]:
    """The class for `uvicorn.Config(http=…)`."""
    return type("BoundedProtocol", (BoundedProtocol,), {"server_connections": connections})


def _head_too_large() -> Refused:
    message = f"The request line and headers are larger than {MAX_HEAD_BYTES} bytes."
    return Refused(400, message, "malformed_request")
