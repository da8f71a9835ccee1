"""What a process counts and times, for Prometheus. A `main.py` makes one `Metrics`; whatever it wires may receive it.

Every name begins with `conversation_store_`; times are in seconds. `infrastructure/deploy/` has the dashboard over them.
"""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, ClassVar, Final, Self

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

NAMESPACE: Final = "conversation_store"

REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
APPEND_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REPLY_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one process, in a registry of its own, beside those of the process itself (memory, CPU, GC)."""

    def __init__(self) -> None:
        # A `_created` series beside each counter and histogram would only add to what is stored.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types it not
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        common: dict[str, Any] = {"namespace": NAMESPACE, "registry": self.registry}

        self.http_requests = Counter(
            "http_requests_total", "Requests answered. Use observe_request().", ["method", "route", "status"], **common
        )
        self.http_request_seconds = Histogram(
            "http_request_seconds",
            "Time from a request to the end of its answer, streams included.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS,
            **common,
        )
        self.events_appended = Counter("events_appended_total", "Events committed to the log.", ["type"], **common)
        self.append_batch_events = Histogram(
            "append_batch_events", "Events in one committed transaction.", buckets=BATCH_BUCKETS, **common
        )
        self.append_seconds = Histogram(
            "append_seconds", "Time from a command's events to their commit.", buckets=APPEND_BUCKETS, **common
        )
        self.append_conflicts = Counter(
            "append_conflicts_total",
            "Appends that met another version: `if_match` was refused, `race` was decided again.",
            ["reason"],
            **common,
        )
        self.replies = Counter("replies_total", "Replies that came to an end, by how they ended.", ["status"], **common)
        self.reply_seconds = Histogram(
            "reply_seconds", "Time from a reply's request to its end.", buckets=REPLY_BUCKETS, **common
        )
        self.reply_tokens = Counter(
            "reply_tokens_total", "Tokens the models reported, `input` and `output`.", ["direction"], **common
        )
        self.model_unavailable = Gauge(
            "model_unavailable", "1 while the model provider is taken for down, and requests fail at once.", **common
        )
        self.projection_position = Gauge(
            "projection_position", "The last position a projection has made visible.", ["projection"], **common
        )
        self.projection_head = Gauge("projection_head", "The last position of the log a projector has seen.", **common)
        self.projection_lag_seconds = Histogram(
            "projection_lag_seconds",
            "Time from an event's commit to its being visible.",
            ["projection"],
            buckets=LAG_BUCKETS,
            **common,
        )
        self.projection_parked = Gauge("projection_parked", "Conversations a projection has set aside.", **common)
        self._event_children: dict[str, Counter] = {}
        self._request_children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        for reason in ("if_match", "race"):
            self.append_conflicts.labels(reason)
        for direction in ("input", "output"):
            self.reply_tokens.labels(direction)

    def observe_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Counts and times one request. `route` is the path's template, None where no route matched: never the raw path.

        What a client may choose freely (a method of its own making) does not become a label of its own.
        """
        key = (method if method in _METHODS else "other", route or "unmatched", status)
        children = self._request_children.get(key)
        if children is None:
            counter = self.http_requests.labels(key[0], key[1], str(status))
            children = self._request_children[key] = (counter, self.http_request_seconds.labels(key[0], key[1]))
        children[0].inc()
        children[1].observe(seconds)

    def observe_append(self, topics: Sequence[str]) -> None:
        """Counts one committed transaction: the topics of its events."""
        self.append_batch_events.observe(len(topics))
        for topic in set(topics):
            child = self._event_children.get(topic)
            if child is None:
                child = self._event_children[topic] = self.events_appended.labels(topic)
            child.inc(topics.count(topic))

    def render(self) -> tuple[bytes, str]:
        """The body and the content type of `/metrics`."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def serve(self, port: int, ready: Callable[[], bool], host: str = "127.0.0.1") -> "MetricsServer":
        """Serves `/metrics`, `/health/ready` and `/health/live` from a thread, for a process that has no API.

        `port` 0 takes a free one. `ready` is called in that thread; when it is false or raises, readiness is a 503.
        """
        return MetricsServer(self, host, port, ready)


class MetricsServer:
    """A small HTTP server in a daemon thread. `port` is the one it is bound to; `close()` stops it."""

    def __init__(self, metrics: Metrics, host: str, port: int, ready: Callable[[], bool]) -> None:
        handler = type("_Bound", (_Handler,), {"metrics": metrics, "ready": staticmethod(ready)})
        family = _Server6 if ":" in host else _Server
        self._server = family((host, port), handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering and frees the port. Closing twice is harmless."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As its parent's, without asking DNS for this machine's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # never bytes here


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    metrics: ClassVar[Metrics]
    ready: ClassVar[Callable[[], bool]]
    timeout = 10  # seconds a client may keep a thread waiting

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, *self.metrics.render())
        elif path == "/health/live":
            self._send_json(200, {"status": "live"})
        elif path == "/health/ready":
            is_ready = self._is_ready()
            self._send_json(200 if is_ready else 503, {"status": "ready" if is_ready else "unavailable"})
        else:
            error = {"message": "not found", "type": "invalid_request_error", "param": None, "code": "not_found"}
            self._send_json(404, {"error": error})

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def _is_ready(self) -> bool:
        try:
            return type(self).ready()
        except Exception:  # noqa: BLE001  # whatever keeps the answer from being known, it is not "ready"
            return False

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parent's name
        """Logs nothing: a scrape every few seconds is no news."""
