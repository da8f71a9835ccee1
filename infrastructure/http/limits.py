"""Applies the limits to requests."""

from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure.http.readiness import Check
from infrastructure.limits.allowance import Allowance
from infrastructure.limits.limiter import Limiter


class LimitsMiddleware:
    """ASGI middleware. A request with a principal gets an Allowance, which ends with the request."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.get("state", {})
        if scope["type"] not in ("http", "websocket") or "principal" not in state:
            await self._app(scope, receive, send)
            return
        allowance = Allowance(self._limiter, state["principal"])
        state["allowance"], state["answer_headers"] = allowance, allowance.headers
        if allowance.counts_bytes:
            send = _counting(send, allowance)
            if body_size(scope) is None:
                receive = _counting_received(receive, allowance)
        try:
            await self._app(scope, receive, send)
        finally:
            allowance.end()


def _counting(send: Send, allowance: Allowance) -> Send:
    async def send_counted(message: Message) -> None:
        if size := size_of(message):
            allowance.bytes_passed(size)
        await send(message)

    return send_counted


def _counting_received(receive: Receive, allowance: Allowance) -> Receive:
    async def receive_counted() -> Message:
        message = await receive()
        if size := len(message.get("body") or b""):  # a WebSocket counts its messages itself
            allowance.bytes_passed(size)
        return message

    return receive_counted


def size_of(message: Message) -> int:
    """The bytes of a body's part, or of a WebSocket message."""
    text = message.get("text")
    return len(message.get("body") or message.get("bytes") or b"") if text is None else len(text.encode())


def body_size(scope: Scope) -> int | None:
    """The value of `Content-Length`, if it is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


async def count_request(connection: HTTPConnection) -> Allowance:
    """Counts a request against its sender's limits. Raises OverLimit."""
    allowance = allowance_of(connection)
    await allowance.request((body_size(connection.scope) or 0) if allowance.counts_bytes else 0)
    return allowance


def allowance_of(connection: HTTPConnection) -> Allowance:
    allowance: Allowance = connection.state.allowance
    return allowance


def limits_check(limiter: Limiter) -> Mapping[str, Check]:
    """The readiness check `limits`: whether this process shares its counts with the other processes. No check if nothing is limited."""

    async def limits() -> bool:
        return limiter.is_shared

    return {"limits": limits} if limiter.is_on else {}
