"""One middleware around every request: an id that is logged, stored and returned, a log line, and the counters."""

import re
import time

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure.http.errors import answer_error
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_QUIET = ("/health", "/metrics")


class Observe:
    """ASGI middleware. A client's own `X-Request-ID` is kept where it has a harmless form; otherwise one is minted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)  # for this request's task, and what it starts
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except Exception as error:
            if status:  # an answer is on its way already: only breaking it off is honest
                log.exception("request_failed", path=scope["path"])
                raise
            response = await answer_error(Request(scope), error)
            await response(scope, receive, observed_send)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        self._metrics.observe_request(scope["method"], route, status, seconds)
        if not scope["path"].startswith(_QUIET):
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ns=round(seconds * 1_000_000_000),
            )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if _REQUEST_ID.fullmatch(given) else mint("req")
    return mint("req")
