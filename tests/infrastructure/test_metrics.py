"""The metrics of a process: their names, what becomes a label, and the small server of a process without an API."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.observability.metrics import LAG_BUCKETS, Metrics, MetricsServer


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def serve(metrics: Metrics) -> Iterator[Callable[[Callable[[], bool]], MetricsServer]]:
    servers: list[MetricsServer] = []

    def start(ready: Callable[[], bool]) -> MetricsServer:
        servers.append(metrics.serve(0, ready))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"conversation_store_{name}", frozenset(labels.items())))


def ask(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()
    finally:
        connection.close()


def test_the_names_and_labels_are_these(metrics: Metrics) -> None:
    own = {
        metric._name: tuple(metric._labelnames) for metric in vars(metrics).values() if hasattr(metric, "_labelnames")
    }
    assert own == {
        "conversation_store_http_requests": ("method", "route", "status"),
        "conversation_store_http_request_seconds": ("method", "route"),
        "conversation_store_events_appended": ("type",),
        "conversation_store_append_batch_events": (),
        "conversation_store_append_seconds": (),
        "conversation_store_append_conflicts": ("reason",),
        "conversation_store_replies": ("status",),
        "conversation_store_reply_seconds": (),
        "conversation_store_reply_tokens": ("direction",),
        "conversation_store_model_unavailable": (),
        "conversation_store_projection_position": ("projection",),
        "conversation_store_projection_head": (),
        "conversation_store_projection_lag_seconds": ("projection",),
        "conversation_store_projection_parked": (),
    }


def test_two_instances_share_nothing(metrics: Metrics) -> None:
    other = Metrics()
    metrics.projection_head.set(7)
    assert (value(metrics, "projection_head"), value(other, "projection_head")) == (7, 0)


def test_a_request_is_counted_and_timed_under_its_route_template(metrics: Metrics) -> None:
    metrics.observe_request("GET", "/v1/conversations/{id}", 200, 0.004)
    labels = {"method": "GET", "route": "/v1/conversations/{id}"}
    assert value(metrics, "http_requests_total", **labels, status="200") == 1
    assert value(metrics, "http_request_seconds_count", **labels) == 1
    assert value(metrics, "http_request_seconds_bucket", **labels, le="0.005") == 1
    assert value(metrics, "http_request_seconds_bucket", **labels, le="0.0025") == 0


def test_a_path_without_a_route_and_a_made_up_method_do_not_become_labels(metrics: Metrics) -> None:
    metrics.observe_request("BREW", None, 404, 0.001)
    assert value(metrics, "http_requests_total", method="other", route="unmatched", status="404") == 1


def test_lag_is_measured_from_a_millisecond_to_a_minute() -> None:
    assert (LAG_BUCKETS[0], LAG_BUCKETS[-1]) == (0.001, 60)


def test_counters_with_known_labels_start_at_zero(metrics: Metrics) -> None:
    assert value(metrics, "append_conflicts_total", reason="race") == 0
    assert value(metrics, "append_conflicts_total", reason="if_match") == 0
    assert value(metrics, "reply_tokens_total", direction="output") == 0


def test_the_process_itself_is_measured_and_no_created_series_are_written(metrics: Metrics) -> None:
    names = {name for name, _ in samples(metrics)}
    assert "process_resident_memory_bytes" in names
    assert not [name for name in names if name.endswith("_created")]


def test_the_server_serves_the_metrics(metrics: Metrics, serve: Callable[[Callable[[], bool]], MetricsServer]) -> None:
    metrics.projection_position.labels("conversations").set(42)
    status, content_type, body = ask(serve(lambda: True), "/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'conversation_store_projection_position{projection="conversations"} 42.0' in body


def unknown() -> bool:
    raise OSError("no answer")


@pytest.mark.parametrize(
    ("ready", "status", "word"),
    [(lambda: True, 200, "ready"), (lambda: False, 503, "unavailable"), (unknown, 503, "unavailable")],
)
def test_the_server_says_whether_the_process_is_ready(
    serve: Callable[[Callable[[], bool]], MetricsServer], ready: Callable[[], bool], status: int, word: str
) -> None:
    answer = ask(serve(ready), "/health/ready")
    assert answer[:2] == (status, "application/json")
    assert json.loads(answer[2]) == {"status": word}


def test_the_server_is_live_even_when_the_process_is_not_ready(
    serve: Callable[[Callable[[], bool]], MetricsServer],
) -> None:
    assert ask(serve(lambda: False), "/health/live")[0] == 200


def test_the_server_knows_no_other_path_and_answers_head_without_a_body(
    serve: Callable[[Callable[[], bool]], MetricsServer],
) -> None:
    server = serve(lambda: True)
    assert ask(server, "/")[0] == 404
    assert ask(server, "/health/ready?x=1", "HEAD") == (200, "application/json", b"")


def test_closing_the_server_frees_the_port_and_ends_its_thread(metrics: Metrics) -> None:
    with metrics.serve(0, lambda: True) as server:
        port = server.port
    server.close()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}
    with metrics.serve(port, lambda: True) as again:
        assert again.port == port
