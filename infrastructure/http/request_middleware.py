"""The middleware around every request and every WebSocket."""

import re
import time

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure.http.errors import answer_error
from infrastructure.http.served_paths import loggable_path
from infrastructure.http.web_pages import WebPages
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NOT_LOGGED = "/health"
_ANSWERS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
"""`websocket.http.response.start` refuses a WebSocket."""


class RequestMiddleware:
    """ASGI middleware. Gives each request an id, records it, and answers its errors.

    The client's `X-Request-ID` is used if it matches `_REQUEST_ID`.

    Inner middleware may put headers of the answer into `request.state.answer_headers`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, web_pages: WebPages) -> None:
        self._app = app
        self._metrics = metrics
        self._web_pages = web_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)  # for this request's task and the tasks it starts
        started = time.perf_counter()
        status = 0
        added_headers = [(b"x-request-id", request_id.encode()), *self._web_pages.answer_headers(scope)]

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in _ANSWERS:
                status = message.get("status", 101)
                more = scope["state"].get("answer_headers", ())
                message["headers"] = [*message["headers"], *more, *added_headers]
            await send(message)

        try:
            self._web_pages.check(scope)
            await (self._web_pages.preflight(scope) or self._app)(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # only a broken connection tells the client of the error now
                log.exception("request_failed", path=loggable_path(scope["path"]))
                raise
            response = await answer_error(HTTPConnection(scope), error)
            await response(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", None)
            # A WebSocket is opened with a GET, and recorded when it ends.
            method = scope.get("method", "GET")
            seconds = time.perf_counter() - started
            record_request(self._metrics, method, scope["path"], route, status=status, seconds=seconds)


def record_request(metrics: Metrics, method: str, path: str, route: str | None, *, status: int, seconds: float) -> None:
    """Counts a request, and logs it unless it is a health check. `route`: the path's template, if one matched."""
    metrics.observe_request(method, route, status, seconds)
    if not path.startswith(_NOT_LOGGED):
        log.info(
            "request",
            method=method,
            path=loggable_path(path),
            status=status,
            duration_ns=round(seconds * 1_000_000_000),
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            client_request_id: str = value.decode("latin-1")
            return client_request_id if _REQUEST_ID.fullmatch(client_request_id) else mint("req")
    return mint("req")
