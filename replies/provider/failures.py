"""Failures of a provider, in our own words, because a provider's message may contain content or an API key."""

from typing import Any

from domain.errors import ModelFailed
from replies.provider.refusals import refusal
from replies.provider.too_long import is_too_long, window_of


def incomplete_answer() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer ended before it was complete.")


def invalid_answer() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer is not in the format of its API.")


def answer_too_long() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer is too long.")


def context_too_long(window: int | None) -> ModelFailed:
    tokens = "" if window is None else f" of {window} tokens"
    message = f"The request to the model provider is longer than the model's context window{tokens}."
    return ModelFailed("context_length_exceeded", message, window=window)


def rate_limited(retry_after: float | None) -> ModelFailed:
    return ModelFailed("model_rate_limited", "The model provider's rate limit is reached.", retry_after=retry_after)


def reported_failure(error: Any) -> ModelFailed:
    """The failure that a provider's error means. `error`: `{message, code, type}`, or any other value."""
    fields = error_object(error)
    code, error_type, message = error_fields(fields)
    if is_too_long(code, error_type, message):
        return context_too_long(window_of(fields))
    if code in ("rate_limit_exceeded", "429") or error_type == "rate_limit_error":
        return rate_limited(None)
    reported = "The model provider reported an error instead of an answer."
    return ModelFailed("model_error", reported, refused=refusal(None, message))


def error_object(body: Any) -> dict[str, Any]:
    """The error in a body, or the body itself if it is an object without `error`. A text becomes `message`. Other
    values give an empty object.

    Gemini puts the object into a list. LM Studio sends `{"error": "…"}`.
    """
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def error_fields(fields: dict[str, Any]) -> tuple[str, str, str]:
    """(code, type, message). A missing field is an empty string."""
    code, error_type, message = (str(fields.get(name) or "")[:1000] for name in ("code", "type", "message"))
    return code, error_type, message
