"""WebSockets with limits: uvicorn's protocol, extended. Errors are JSON. Messages are not compressed.

A socket is closed when its client

- reads nothing of what was sent for `write_seconds`, or answers no ping for PING_SECONDS
- sends a message of more than `ws_max_size` bytes: an error, then close code 1009
- sends only a part of a message and then nothing for `body_seconds`: close code 1002
- breaks the protocol: close code 1002, or 1007 for a text that is not UTF-8
"""

import asyncio
from typing import Any

import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from infrastructure.http.connections import Connections, ReadWatch
from infrastructure.http.errors import ApiError
from infrastructure.http.refusals import Refused, refusal_answer, refusal_body, refusal_headers

log = structlog.get_logger(__name__)

PING_SECONDS = 20.0
"""The time between two pings, and the longest wait for a pong."""

QUIET_SECONDS = 0.5
"""A failed socket is closed when its client has sent nothing for this long."""

VERSION = "13"


_HANDSHAKE_ANSWERS = ("websocket.accept", "websocket.http.response.start", "websocket.http.response.body")


class BoundedWebSocket(WebSocketsSansIOProtocol):
    server_connections: Connections

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: _Frames = _Frames(max_size=config.ws_max_size)
        self._read_watch = ReadWatch(self.loop.time())
        self._received_at = self._part_at = self.loop.time()
        """When bytes last arrived, and when a part of a message last arrived."""

        self._has_failed = False

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_at = self.loop.time()
        super().data_received(data)
        if not self.conn.only_control_frames:
            self._part_at = self._received_at
        if not self.handshake_initiated:  # the head is not valid HTTP, or too large for the library
            self._refuse(Refused(400, "The head of this WebSocket handshake cannot be read.", "malformed_request"))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_watch.client_has_read(self.loop.time())
        self.server_connections.client_has_read()

    # Called by the parent

    def handle_connect(self, event: Request) -> None:
        if not all(key.isascii() for key in event.headers.get_all("Sec-WebSocket-Key")):
            self.handshake_initiated = True  # otherwise the library would answer with a server error
            self._refuse(Refused(400, "Invalid `Sec-WebSocket-Key`.", "invalid_handshake"))
            return
        if event.headers.get_all("Sec-WebSocket-Version") == [VERSION]:
            super().handle_connect(event)
            return
        message = f"This server has only WebSockets of version {VERSION}: send `Sec-WebSocket-Version: {VERSION}`."
        self.handshake_initiated = True
        self._refuse(Refused(426, message, "invalid_handshake", {"sec-websocket-version": VERSION}))

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            self._fail(CloseCode.INVALID_DATA, "A text message is not UTF-8.")
            return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Tells the client the reason, and closes the socket.

        Goes on reading, because a client whose bytes are not read might not receive the reason.
        """
        sent = self.conn.close_sent
        if self.close_sent:
            return
        if sent is None:  # frames before the answer to the handshake broke the protocol
            self._has_failed = True
            self.transport.abort()
            return
        self.frames = []
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        if isinstance(self.conn.parser_exc, PayloadTooBig):
            message = f"The message is larger than {self.config.ws_max_size} bytes."
            error = ApiError(413, message, code="request_too_large").socket_event()
            self.transport.write(Frame(Opcode.TEXT, error).serialize(mask=False))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._has_failed = True
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    # Called by the application

    async def send(self, message: ASGISendEvent) -> None:
        """Also raises ClientDisconnected while the socket is closing, to stop an application that sends without end."""
        await self.writable.wait()
        if self._has_failed or self.transport.is_closing():
            if message["type"] in _HANDSHAKE_ANSWERS:
                self.handshake_complete = True  # the client went before its handshake was answered
                return
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # without this, uvicorn would log an error

    # Called by uvicorn's server

    def shutdown(self) -> None:
        """The application itself closes an accepted socket."""
        if not self.handshake_complete:
            super().shutdown()

    # Called by `Connections`

    @property
    def unread_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def check(self, now: float, write_seconds: float) -> None:
        if self._read_watch.seconds_without_reading(self.unread_bytes, now) >= write_seconds:
            log.info("connection_aborted", reason="messages_not_read", unread_bytes=self.unread_bytes)
            self.transport.abort()
            return
        if self._has_failed:
            if now - self._received_at >= QUIET_SECONDS:
                self.transport.close()
            return
        is_in_message = bool(self.frames) or not self.conn.ended_a_frame
        if is_in_message and now - self._part_at >= self.server_connections.limits.body_seconds:
            log.info("connection_closed", reason="message_not_received")
            self._fail(CloseCode.PROTOCOL_ERROR, "The rest of a message did not arrive in time.")

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _refuse(self, refused: Refused) -> None:
        self.transport.write(refusal_answer(refused))
        self.transport.close()


class _Frames(ServerProtocol):
    """The library's parser, with our JSON error for a refused handshake.

    `ended_a_frame`: the last bytes ended a frame. `only_control_frames`: the last bytes ended only pings and pongs.
    """

    ended_a_frame = True
    only_control_frames = False

    def events_received(self) -> list[Event]:
        events = super().events_received()
        self.ended_a_frame = bool(events)
        self.only_control_frames = self.ended_a_frame and all(
            isinstance(event, Frame) and event.opcode in (Opcode.PING, Opcode.PONG) for event in events
        )
        return events

    def reject(self, status: StatusLike, text: str) -> Response:
        message = text.partition("\n")[0].encode("ascii", "replace").decode()
        refused = Refused(int(status), message, "invalid_handshake")
        body = refusal_body(refused)
        return Response(
            refused.status, super().reject(status, "").reason_phrase, Headers(refusal_headers(refused, body)), body
        )


def bounded_websocket(connections: Connections) -> type[BoundedWebSocket]:
    """The class for `uvicorn.Config(ws=…)`."""
    return type("BoundedWebSocket", (BoundedWebSocket,), {"server_connections": connections})


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
