"""The gateway's `/health/ready` combines the readiness of the command API and of the query API."""

from msgspec import json

from scripts.gateway import combined_readiness


def test_a_check_of_both_sides_passes_only_when_it_passes_on_both() -> None:
    commands = {"status": "unavailable", "checks": {"postgres": "ok", "log_writable": "failed"}}
    queries = {"status": "ready", "checks": {"postgres": "ok", "log_writable": "ok", "mongodb": "ok"}}
    for answers in ([(503, commands), (200, queries)], [(200, queries), (503, commands)]):
        answer = combined_readiness(answers)
        assert answer.status_code == 503
        checks = {"postgres": "ok", "log_writable": "failed", "mongodb": "ok"}
        assert json.decode(answer.body) == {"status": "unavailable", "checks": checks}
