"""Failures of a provider, with messages of our own: the provider's messages may contain what people wrote, or an API key."""

from typing import Any

from domain.errors import ModelFailed
from replies.provider.refusals import refusal

_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
"""The codes of OpenAI and llama.cpp. Other providers report this error in the message only."""


def incomplete_answer() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer ended before it was complete.")


def invalid_answer() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer is not in the format of its API.")


def answer_too_long() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer is too long.")


def context_too_long() -> ModelFailed:
    message = "The request to the model provider is longer than the model's context window."
    return ModelFailed("context_length_exceeded", message)


def rate_limited(retry_after: float | None) -> ModelFailed:
    return ModelFailed("model_rate_limited", "The model provider's rate limit is reached.", retry_after=retry_after)


def reported_failure(error: Any) -> ModelFailed:
    """The failure for an error that the provider sends in its stream. `error`: `{message, code, type}`, or any other value."""
    code, error_type, message = error_fields(error)
    if is_context_too_long(code, error_type, message):
        return context_too_long()
    if code in ("rate_limit_exceeded", "429") or error_type == "rate_limit_error":
        return rate_limited(None)
    reported = "The model provider reported an error instead of an answer."
    return ModelFailed("model_error", reported, refused=refusal(None, message))


def error_fields(error: Any) -> tuple[str, str, str]:
    """The code, type and message of an error object; "" for each that is missing."""
    fields = error if isinstance(error, dict) else {}
    fields = fields["error"] if isinstance(fields.get("error"), dict) else fields
    code, error_type, message = (str(fields.get(name) or "")[:1000] for name in ("code", "type", "message"))
    return code, error_type, message


def is_context_too_long(code: str, error_type: str, message: str) -> bool:
    return code in _TOO_LONG or error_type in _TOO_LONG or "maximum context length" in message
