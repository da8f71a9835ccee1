"""Failures of a provider: which ModelFailed is raised for each, and when a request is retried."""

import time
from email.utils import formatdate
from typing import Any

import pytest

from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import CHUNK, failure_of, parts_of, write
from tests.scripted_provider import Exchange, ScriptedProvider


def refuse(status: int, error: Any, **headers: str) -> Any:
    return lambda exchange: exchange.json(status, {"error": error}, **headers)


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (400, {"message": "secret"}, ("model_error", 1)),
        (401, {"message": "secret"}, ("model_error", 1)),
        (400, "secret", ("model_error", 1)),
        (404, {}, ("model_not_found", 1)),
        (400, {"code": "model_not_found", "message": "secret"}, ("model_not_found", 1)),
        (400, {"code": "context_length_exceeded"}, ("context_length_exceeded", 1)),
        (400, {"code": 400, "type": "exceed_context_size_error"}, ("context_length_exceeded", 1)),
        (400, {"message": "This model's maximum context length is 5"}, ("context_length_exceeded", 1)),
        (500, {"message": "secret"}, ("model_error", 3)),
        (429, {"message": "secret"}, ("model_rate_limited", 3)),
    ],
)
async def test_each_error_status_becomes_a_code_and_only_temporary_errors_are_retried(
    chat: ModelProvider, provider: ScriptedProvider, status: int, error: Any, outcome: tuple[str, int]
) -> None:
    provider.script = refuse(status, error, retry_after_ms="10")
    failure = await failure_of(chat)
    assert (failure.code, len(provider.requests)) == outcome
    assert "secret" not in failure.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7.5", 7.5),
        ("-1", None),
        ("nan", None),
        ("soon", None),
        ("1e9", None),
        ("a date", 3600),
    ],
)
async def test_a_rate_limit_failure_has_the_valid_retry_after_of_the_answer(
    chat: ModelProvider, provider: ScriptedProvider, header: str, seconds: float | None
) -> None:
    if header == "a date":
        header = formatdate(time.time() + 3600)
    provider.script = refuse(429, {}, retry_after=header, x_should_retry="false")
    failure = await failure_of(chat)
    assert failure.code == "model_rate_limited"
    assert failure.retry_after == (seconds if seconds is None else pytest.approx(seconds, rel=0.2))


async def test_a_request_that_is_answered_with_a_503_is_retried(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    working = provider.script

    def script(exchange: Exchange) -> None:
        provider.script = working
        exchange.json(503, {}, retry_after_ms="10")

    provider.script = script
    assert len(await parts_of(chat)) == 6
    assert len(provider.requests) == 2


async def test_a_request_that_fails_after_the_first_part_is_not_retried(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    provider.script = write(b"data: " + CHUNK.replace(b'"stop"', b"null") + b"\n\n")
    assert (await failure_of(chat)).message == "The model provider's answer ended before it was complete."
    assert len(provider.requests) == 1


async def test_a_request_fails_if_no_provider_is_configured() -> None:
    assert (await failure_of(ModelProvider(Settings()))).code == "model_error"
