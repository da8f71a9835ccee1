"""The metrics of a process: their names, and what becomes a label."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.observability.metrics import LAG_BUCKETS, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"conversation_store_{name}", frozenset(labels.items())))


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
