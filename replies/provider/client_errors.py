"""The errors of the client that asks the provider, in our words."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2
import openai

from domain.errors import ModelFailed
from replies.provider.failures import (
    broke_off,
    context_too_long,
    is_too_long,
    not_understood,
    rate_limited,
    words,
)


def as_failure(error: Exception) -> ModelFailed:
    """Any error of asking the provider and of reading what it answers."""
    match error:
        case ModelFailed():
            return error
        case openai.APITimeoutError() if _is_no_connection(error):
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
            return broke_off()
        case _:
            return not_understood()


def _refused(error: openai.APIStatusError) -> ModelFailed:
    status = error.status_code
    code, kind, message = words(error.body)
    if status in (400, 413, 422) and is_too_long(code, kind, message):
        return context_too_long()
    if status == 404 or (status == 400 and code == "model_not_found"):
        return ModelFailed("model_not_found", "The model provider does not have this model.")
    return ModelFailed("model_error", f"The model provider answered with status {status}.", unreachable=status >= 500)


def _is_no_connection(error: BaseException | None) -> bool:
    """Whether a connection was refused or broke: the client's transport calls that a time-out too."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectionError):
            return not isinstance(error, TimeoutError)
        error = error.__cause__
    return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, as `retry-after-ms` or `retry-after` (seconds or a date) gives them; None where neither makes sense."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < 86_400 else None  # no comparison holds for NaN
    try:
        seconds = parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < 86_400 else None
