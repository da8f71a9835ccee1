"""What goes wrong with a provider, in our words: its own may hold what people wrote, or a key."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai

_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
"""How OpenAI and llama.cpp say it; others only in words."""


class ModelFailed(Exception):
    """The provider did not answer as it should; `message` holds no content. `code`:

    model_error              it refuses, breaks off, or answers something else
    model_timeout            it was too slow (`timed_out`)
    model_rate_limited       it answers 429; `retry_after`: seconds, where it says them
    model_unavailable        it has not been reached for a while, and is not asked; `retry_after`: seconds
    model_not_found          it does not have the model
    context_length_exceeded  what it was sent is longer than the model takes

    `unreachable`: it was not reached, or did not answer, or answered 5xx: asking again soon is of no use.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        timed_out: bool = False,
        unreachable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.timed_out = timed_out
        self.unreachable = unreachable
        self.retry_after = retry_after


def broke_off() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer broke off.")


def not_understood() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer could not be understood.")


def too_long() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer was too long.")


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


def _is_no_connection(error: BaseException | None) -> bool:
    """Whether a connection was refused or broke: the client's transport calls that a time-out too."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectionError):
            return not isinstance(error, TimeoutError)
        error = error.__cause__
    return False


def told(error: Any) -> ModelFailed:
    """An error that the provider tells in its stream: `{message, code, type}`, or anything else."""
    code, kind, message = _words(error)
    if _is_too_long(code, kind, message):
        return _context_too_long()
    if code in ("rate_limit_exceeded", "429") or kind == "rate_limit_error":
        return rate_limited(None)
    return ModelFailed("model_error", "The model provider failed while it answered.")


def rate_limited(retry_after: float | None) -> ModelFailed:
    return ModelFailed("model_rate_limited", "The model provider is at its rate limit.", retry_after=retry_after)


def _refused(error: openai.APIStatusError) -> ModelFailed:
    status = error.status_code
    code, kind, message = _words(error.body)
    if status in (400, 413, 422) and _is_too_long(code, kind, message):
        return _context_too_long()
    if status == 404 or (status == 400 and code == "model_not_found"):
        return ModelFailed("model_not_found", "The model provider does not have this model.")
    return ModelFailed("model_error", f"The model provider answered with status {status}.", unreachable=status >= 500)


def _context_too_long() -> ModelFailed:
    message = "What the model provider was sent is longer than the model's context window."
    return ModelFailed("context_length_exceeded", message)


def _words(error: Any) -> tuple[str, str, str]:
    """The code, the type and the message of an error object, "" for what it has not."""
    given = error if isinstance(error, dict) else {}
    given = given["error"] if isinstance(given.get("error"), dict) else given
    code, kind, message = (str(given.get(name) or "")[:1000] for name in ("code", "type", "message"))
    return code, kind, message


def _is_too_long(code: str, kind: str, message: str) -> bool:
    return code in _TOO_LONG or kind in _TOO_LONG or "maximum context length" in message


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
