"""One middleware around every request: an id that is logged, stored and returned, a log line, and the counters."""

import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure.http.errors import as_api_error
from infrastructure.ids import mint
from infrastructure.metrics import Metrics

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
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else mint("req")
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, observed_send)
            except Exception as error:
                log.exception("request_failed", path=scope["path"])
                if status:
                    raise  # an answer is on its way already: only breaking it off is honest
                await as_api_error(error).response()(scope, receive, observed_send)
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
