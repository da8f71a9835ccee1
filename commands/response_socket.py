"""Responses over a WebSocket, as Open Responses specifies it.

A message is served like a POST, but a socket runs one reply at a time. The credential is checked again for each
message.
"""

import asyncio
import time
from contextlib import aclosing, suppress

from starlette.routing import WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from commands.command_route import CommandContext, ProcessDependencies, command_context
from commands.content_intake import Keep, may_have_contents, take_contents
from commands.open_sockets import EndReason, OpenSocket
from commands.request_reply import check_body, keeps_running, request_reply
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse, is_stored
from commands.socket_messages import create_parameters, parse_message
from commands.start_reply import stream_of
from commands.unstored_replies import UnstoredReply
from domain.commands import NewItem
from domain.items import from_stored, is_usable
from infrastructure.access.principal import Scope
from infrastructure.access.refusals import InvalidCredential
from infrastructure.http.door import authenticate, principal_with
from infrastructure.http.errors import ApiError, as_api_error, reported
from infrastructure.http.limits import count_request, size_of
from infrastructure.http.query_parameters import check_names
from infrastructure.http.request_middleware import record_request
from infrastructure.limits.allowance import Allowance
from infrastructure.limits.refusals import OverLimit
from replies.event_data import event_data
from replies.recorded_reply import RecordedReply
from replies.running_reply import RunningReply

PATH = "/v1/responses"
SCOPE: Scope = "reply"

_CLOSE_CODES: dict[EndReason, tuple[int, str]] = {
    "stopping": (1001, "The server is stopping. Connect again."),
    "too_old": (1000, "The connection has reached its maximum age."),
    "unused": (1000, "The connection was not used for too long."),
    "not_admitted": (1008, "The credential is not valid any more."),
}


async def response_socket(websocket: WebSocket) -> None:
    allowance = await count_request(websocket)
    if websocket.scope["query_string"]:
        check_names(websocket, lambda _: False)
    await allowance.follow()
    dependencies: ProcessDependencies = websocket.app.state.dependencies
    with dependencies.sockets.opened() as socket:
        await websocket.accept()
        await _ResponseSocket(websocket, socket, dependencies).serve()


sockets = (WebSocketRoute(PATH, response_socket),)


class _ResponseSocket:
    def __init__(self, websocket: WebSocket, socket: OpenSocket, dependencies: ProcessDependencies) -> None:
        self._websocket = websocket
        self._socket = socket
        self._unstored = dependencies.sockets.unstored
        self._metrics = dependencies.reply_services.metrics
        self._limiter = dependencies.limiter
        self._answering: asyncio.Task[None] | None = None
        self._is_streaming = False
        self._gone = asyncio.Event()

    async def serve(self) -> None:
        receiving = asyncio.create_task(self._websocket.receive())
        try:
            while self._answering is not None or not self._socket.end.done():
                await asyncio.wait(
                    {receiving, self._answering or self._socket.end}, return_when=asyncio.FIRST_COMPLETED
                )
                if self._answering is not None and self._answering.done():
                    self._answering = None
                if receiving.done():
                    message = receiving.result()
                    if message["type"] == "websocket.disconnect":
                        return
                    receiving = asyncio.create_task(self._websocket.receive())
                    await self._take(message)
            await self._close(self._socket.end.result())
        except WebSocketDisconnect:
            pass  # the client disconnected while something was sent to it
        except asyncio.CancelledError:  # the server stops, and a reply did not end in time
            await self._close("stopping")
            raise
        finally:
            self._gone.set()
            receiving.cancel()
            await self._stop_answering()

    async def _take(self, message: Message) -> None:
        self._socket.used_at = time.monotonic()
        if self._answering is not None:
            error = "A reply is running on this connection. Wait for its end, or open another connection."
            await self._send(ApiError(409, error, code="response_in_progress").socket_event())
            return
        self._is_streaming = False
        self._answering = asyncio.create_task(self._answer(message))

    async def _answer(self, message: Message) -> None:
        """Answers one message. Counts and logs it like a request."""
        self._socket.begin_answer()
        started, status = time.perf_counter(), 200
        allowance = Allowance(self._limiter, self._websocket.state.principal)
        try:
            await allowance.request(size_of(message))
            await self._create_response(message, allowance)
        except WebSocketDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - every error is answered
            api_error = reported(error)
            status = api_error.status
            if isinstance(error, OverLimit):
                api_error.headers |= {name.decode(): value.decode() for name, value in allowance.headers}
            with suppress(WebSocketDisconnect):
                await self._send(api_error.socket_event())
            if isinstance(error, InvalidCredential) and not self._socket.end.done():
                self._socket.end.set_result("not_admitted")
        finally:
            allowance.end()
            self._socket.end_answer()
            seconds = time.perf_counter() - started
            record_request(self._metrics, "WEBSOCKET", PATH, PATH, status=status, seconds=seconds)

    async def _create_response(self, message: Message, allowance: Allowance) -> None:
        await authenticate(self._websocket)
        principal_with(self._websocket, SCOPE)
        text = message.get("text")
        if text is None:
            raise ApiError(400, "Send text messages: this one is binary.", code="invalid_value")
        raw = text.encode()
        fields = parse_message(raw)
        unstored = self._unstored.get(self._socket)
        if unstored is not None and fields.get("previous_response_id") == unstored.response_id:
            # Open Responses: if this message ends with an error, nothing can continue from the earlier reply.
            self._unstored.forget(self._socket)
        context = command_context(self._websocket, SCOPE, raw, self._gone.wait, unstored, allowance=allowance)
        if may_have_contents(raw):
            # The data of an unstored reply stays in its items, because the next reply may continue from it.
            keep: Keep = "stored" if is_stored(fields) else "inline"
            fields = await take_contents(
                context.contents, fields, size=len(raw), max_bytes=MAX_REQUEST_BYTES, keep=keep
            )
        body = create_parameters(fields)
        check_body(body)
        reply = await request_reply(context, body)
        last_event = await self._send_events(context, body, reply)
        if last_event != "response.failed":
            self._remember(reply, body, unstored)

    async def _send_events(
        self, context: CommandContext, body: CreateResponse, reply: RunningReply | RecordedReply
    ) -> str:
        """Returns the type of the last event."""
        stream, _ = await stream_of(reply, keep_running=keeps_running(context, body))
        kind = ""
        async with aclosing(event_data(stream)) as events:
            async for kind, data in events:
                self._is_streaming = True
                if kind == "error":
                    raise await _failure_of(reply)
                await self._send(data)
        return kind

    def _remember(
        self, reply: RunningReply | RecordedReply, body: CreateResponse, previous: UnstoredReply | None
    ) -> None:
        """Remembers an unstored reply, so that the next reply can continue from it. A stored reply is found in the log."""
        self._unstored.forget(self._socket)
        if isinstance(reply, RecordedReply) or reply.stored:
            return
        after = body.previous_response_id
        if previous is not None and previous.response_id == after:
            after = previous.after
        output = (stored for stored in reply.output if is_usable(from_stored(stored.item)))
        items = tuple(
            NewItem(item_id=stored.item_id, item=stored.item, copy_of=stored.copy_of)
            for stored in (*reply.input, *output)
        )
        self._unstored.keep(self._socket, UnstoredReply(response_id=reply.response_id, after=after, items=items))

    async def _send(self, event: bytes) -> None:
        """Raises WebSocketDisconnect."""
        await self._websocket.send_text(event.decode())

    async def _close(self, reason: EndReason) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # the socket is closed already
            if reason == "too_old":
                message = "The connection has been open for the maximum time. Open another one."
                await self._send(ApiError(400, message, code="websocket_connection_limit_reached").socket_event())
            code, text = _CLOSE_CODES[reason]
            await self._websocket.close(code, text)

    async def _stop_answering(self) -> None:
        """Does not cancel the task before the first event, because the task may be appending the request. Sending the
        first event then fails, which ends the task. It also stops the reply, unless the reply may finish without its
        client.
        """
        if self._answering is not None:
            if self._is_streaming:
                self._answering.cancel()
            await asyncio.wait({self._answering})


async def _failure_of(reply: RunningReply | RecordedReply) -> ApiError:
    """The error behind an `error` event, with its status."""
    try:
        await reply.response()
    except Exception as error:  # noqa: BLE001 - it is answered
        return as_api_error(error)
    return ApiError(500, "The stream ended before the reply's last event.", code="internal_error")
