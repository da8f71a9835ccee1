"""Failures of a provider, with messages of our own: the provider's messages may contain what people wrote, or an API key."""

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
    """`window`: the model's window, if the provider named it."""
    tokens = "" if window is None else f" of {window} tokens"
    message = f"The request to the model provider is longer than the model's context window{tokens}."
    return ModelFailed("context_length_exceeded", message, window=window)


def rate_limited(retry_after: float | None) -> ModelFailed:
    return ModelFailed("model_rate_limited", "The model provider's rate limit is reached.", retry_after=retry_after)


def reported_failure(error: Any) -> ModelFailed:
    """The failure for an error that the provider sends in its stream. `error`: `{message, code, type}`, or any other value."""
    fields = error_object(error)
    code, error_type, message = error_fields(fields)
    if is_too_long(code, error_type, message):
        return context_too_long(window_of(fields))
    if code in ("rate_limit_exceeded", "429") or error_type == "rate_limit_error":
        return rate_limited(None)
    reported = "The model provider reported an error instead of an answer."
    return ModelFailed("model_error", reported, refused=refusal(None, message))


def error_object(body: Any) -> dict[str, Any]:
    """The error object in the body of an answer. Empty if there is none.

    Most providers send `{"error": {…}}`, or the object alone. Gemini puts it into a list. LM Studio sends
    `{"error": "…"}`: this text becomes the object's `message`.
    """
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def error_fields(fields: dict[str, Any]) -> tuple[str, str, str]:
    """The code, type and message of an error object. A missing one is an empty string."""
    code, error_type, message = (str(fields.get(name) or "")[:1000] for name in ("code", "type", "message"))
    return code, error_type, message
