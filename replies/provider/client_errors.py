"""Turns the errors of the HTTP client and of the official client into ModelFailed."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2
import openai

from domain.errors import ModelFailed
from replies.provider.failures import (
    context_too_long,
    error_fields,
    error_object,
    incomplete_answer,
    invalid_answer,
    rate_limited,
)
from replies.provider.refusals import refusal
from replies.provider.too_long import is_too_long, window_of


def as_failure(error: Exception) -> ModelFailed:
    match error:
        case ModelFailed():
            return error
        case openai.APITimeoutError() if _has_no_connection(error):
            return ModelFailed("model_error", "The model provider could not be reached.", unreachable=True)
        case openai.APITimeoutError() | httpx2.TimeoutException() | TimeoutError():
            message = "The model provider did not answer in time."
            return ModelFailed("model_timeout", message, timed_out=True, unreachable=True)
        case openai.RateLimitError():
            return rate_limited(_retry_after(error.response.headers))
        case openai.APIStatusError():
            return _refused(error)
        case openai.APIConnectionError():
            return ModelFailed("model_error", "The model provider could not be reached.", unreachable=True)
        case httpx2.HTTPError():
            return incomplete_answer()
        case _:
            return invalid_answer()


def _refused(error: openai.APIStatusError) -> ModelFailed:
    status = error.status_code
    if 300 <= status < 400:
        message = f"The model provider answered with a redirect (status {status}), which is not followed: set OPENAI_BASE_URL to the base URL of its target."
        return ModelFailed("model_error", message)
    fields = error_object(error.body)
    code, error_type, message = error_fields(fields)
    if status in (400, 413, 422, 500) and is_too_long(code, error_type, message):
        return context_too_long(window_of(fields))
    refused = refusal(status, message or str(error.body))
    if status == 404 or (status == 400 and code == "model_not_found"):
        not_found = "The model provider does not have this model, or OPENAI_BASE_URL is not the base URL of its API."
        return ModelFailed("model_not_found", not_found, refused=refused)
    answered = f"The model provider answered with status {status}."
    return ModelFailed("model_error", answered, unreachable=status in (502, 503, 504), refused=refused)


def _has_no_connection(error: BaseException | None) -> bool:
    """The client's transport reports a refused or broken connection as a timeout too."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectionError):
            return not isinstance(error, TimeoutError)
        error = error.__cause__
    return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """In seconds. None if the header is missing, unreadable, negative or at least a day."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < 86_400 else None  # NaN gives None too
    try:
        seconds = parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < 86_400 else None
