"""The metrics of a process, for Prometheus. Names of our own begin with `conversation_store_`. Times are in seconds."""

from collections.abc import Sequence
from typing import Any, Final

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

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
"""`WEBSOCKET`: a message on an open WebSocket."""


class Metrics:
    """Each process makes one and passes it on."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        common: dict[str, Any] = {"namespace": NAMESPACE, "registry": self.registry}

        self.http_requests = Counter(
            "http_requests_total", "Requests answered.", ["method", "route", "status"], **common
        )
        self.http_request_seconds = Histogram(
            "http_request_seconds",
            "Time from a request to the end of its answer or stream.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS,
            **common,
        )
        self.open_sockets = Gauge("open_sockets", "WebSockets that are open.", **common)
        self.events_appended = Counter("events_appended_total", "Events committed to the log.", ["type"], **common)
        self.append_batch_events = Histogram(
            "append_batch_events", "Events in one committed transaction.", buckets=BATCH_BUCKETS, **common
        )
        self.append_seconds = Histogram(
            "append_seconds",
            "Time to decide and commit one batch of appends.",
            buckets=APPEND_BUCKETS,
            **common,
        )
        self.append_conflicts = Counter(
            "append_conflicts_total",
            "Appends to a conversation that had changed: `if_match` were refused, `race` were decided again on the new version.",
            ["reason"],
            **common,
        )
        self.streams_lost = Counter(
            "streams_lost_total",
            "Conversations whose newest event, as known from `memory` or a `snapshot`, was missing in the log.",
            ["source"],
            **common,
        )
        self.replies = Counter("replies_total", "Replies that ended, by status.", ["status"], **common)
        self.reply_seconds = Histogram(
            "reply_seconds", "Time from a reply's request to its end.", buckets=REPLY_BUCKETS, **common
        )
        self.reply_tokens = Counter(
            "reply_tokens_total", "Tokens reported by the providers, `input` and `output`.", ["direction"], **common
        )
        self.titles = Counter(
            "titles_total",
            "Titles by outcome: `written`, `refused` (no longer wanted), `failed`, `empty` (the model wrote none), or `skipped` (no model was asked, because too many titles waited).",
            ["outcome"],
            **common,
        )
        self.model_unavailable = Gauge(
            "model_unavailable",
            "Models whose circuit breaker is open: requests to them fail immediately. The log names them.",
            **common,
        )
        self.rate_limited = Counter(
            "rate_limited_total",
            "Requests that were refused because a limit was reached, by limit.",
            ["limit"],
            **common,
        )
        self.limits_shared = Gauge(
            "limits_shared",
            "1 while this process counts together with the others, 0 while it counts by itself. 1 without limits.",
            **common,
        )
        self.projection_position = Gauge(
            "projection_position", "The log position up to which a view shows events.", ["projection"], **common
        )
        self.projection_head = Gauge("projection_head", "The last log position that a projector has seen.", **common)
        self.projection_lag_seconds = Histogram(
            "projection_lag_seconds",
            "Time from an event's commit until a view shows it.",
            ["projection"],
            buckets=LAG_BUCKETS,
            **common,
        )
        self.projection_parked = Gauge(
            "projection_parked", "Conversations that a view has parked because it could not apply an event.", **common
        )
        self.projection_interruptions = Counter(
            "projection_interruptions_total",
            "Updates of a view that failed because a store was unavailable or refused the update, by error.",
            ["projection", "error"],
            **common,
        )
        self.projection_restarts = Counter(
            "projection_restarts_total",
            "Views that were started over because the log no longer had the events that they showed.",
            ["projection"],
            **common,
        )
        self._event_children: dict[str, Counter] = {}
        self._request_children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        for reason in ("if_match", "race"):
            self.append_conflicts.labels(reason)
        for source in ("memory", "snapshot"):
            self.streams_lost.labels(source)
        self.limits_shared.set(1)
        for limit in (
            "requests",
            "requests_a_second",
            "tokens",
            "replies",
            "background",
            "followers",
            "tokens_a_month",
        ):
            self.rate_limited.labels(limit)
        for outcome in ("written", "refused", "failed", "empty", "skipped"):
            self.titles.labels(outcome)
        for direction in ("input", "output"):
            self.reply_tokens.labels(direction)

    def observe_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """`route`: the path's template; None when no route matched. A raw path never becomes a label's value."""
        key = (method if method in _METHODS else "other", route or "unmatched", status)
        children = self._request_children.get(key)
        if children is None:
            counter = self.http_requests.labels(key[0], key[1], str(status))
            children = self._request_children[key] = (counter, self.http_request_seconds.labels(key[0], key[1]))
        children[0].inc()
        children[1].observe(seconds)

    def observe_append(self, topics: Sequence[str]) -> None:
        """Counts one transaction."""
        self.append_batch_events.observe(len(topics))
        for topic in set(topics):
            child = self._event_children.get(topic)
            if child is None:
                child = self._event_children[topic] = self.events_appended.labels(topic)
            child.inc(topics.count(topic))

    def render(self) -> tuple[bytes, str]:
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4
