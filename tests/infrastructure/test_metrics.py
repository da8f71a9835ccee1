"""The metrics of a process: their names and labels, and what is counted for a request."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.observability.metrics import LAG_BUCKETS, Metrics
from tests.infrastructure.metric_names import METRICS


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"conversation_store_{name}", frozenset(labels.items())))


def test_the_metrics_have_the_listed_names_and_labels(metrics: Metrics) -> None:
    for name, labels in METRICS.items():
        if labels:
            getattr(metrics, name).labels(**dict.fromkeys(labels, "some"))
    collected = [family for family in metrics.registry.collect() if family.name.startswith("conversation_store_")]
    exposed = {
        family.name.removeprefix("conversation_store_"): {label for sample in family.samples for label in sample.labels}
        for family in collected
    }
    histograms = {family.name.removeprefix("conversation_store_") for family in collected if family.type == "histogram"}
    assert exposed == {name: {*labels, "le"} if name in histograms else set(labels) for name, labels in METRICS.items()}


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


def test_an_unknown_path_and_an_invented_method_do_not_become_labels(metrics: Metrics) -> None:
    metrics.observe_request("BREW", None, 404, 0.001)
    assert value(metrics, "http_requests_total", method="other", route="unmatched", status="404") == 1


def test_the_buckets_of_the_lag_reach_from_a_millisecond_to_a_minute() -> None:
    assert (LAG_BUCKETS[0], LAG_BUCKETS[-1]) == (0.001, 60)


def test_counters_with_known_labels_start_at_zero(metrics: Metrics) -> None:
    assert value(metrics, "append_conflicts_total", reason="race") == 0
    assert value(metrics, "append_conflicts_total", reason="if_match") == 0
    assert value(metrics, "reply_tokens_total", direction="output") == 0


def test_the_process_itself_is_measured_and_no_created_series_are_written(metrics: Metrics) -> None:
    names = {name for name, _ in samples(metrics)}
    assert "process_resident_memory_bytes" in names
    assert not [name for name in names if name.endswith("_created")]
