"""The answer to an error tells a client whether to repeat the request."""

from infrastructure.event_log.append_request import LogUnavailable
from infrastructure.http.errors import as_api_error


def test_an_unknown_outcome_does_not_ask_the_client_to_repeat_the_request() -> None:
    answer = as_api_error(LogUnavailable(outcome_unknown=True)).response()
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_an_append_that_stored_nothing_asks_the_client_to_repeat_the_request() -> None:
    answer = as_api_error(LogUnavailable(outcome_unknown=False)).response()
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "true"
    assert answer.headers["retry-after"] == "1"
