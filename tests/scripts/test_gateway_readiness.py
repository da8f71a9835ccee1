"""The gateway's `/health/ready` combines the readiness of the command API and of the query API."""

from msgspec import json

from scripts.gateway import combined_readiness


def test_one_failed_side_makes_the_gateway_unavailable() -> None:
    commands = {"status": "unavailable", "checks": {"postgres": "ok", "log_writable": "failed"}}
    queries = {"status": "ready", "checks": {"postgres": "ok", "log_writable": "ok", "mongodb": "ok"}}
    for answers in ([(503, commands), (200, queries)], [(200, queries), (503, commands)]):
        answer = combined_readiness(answers)
        assert answer.status_code == 503
        checks = {"postgres": "ok", "log_writable": "failed", "mongodb": "ok"}
        assert json.decode(answer.body) == {"status": "unavailable", "checks": checks}
