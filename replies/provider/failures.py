"""What goes wrong with a provider, in our words: its own may hold what people wrote, or a key."""

from typing import Any

from domain.errors import ModelFailed

_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
"""How OpenAI and llama.cpp say it; others only in words."""


def broke_off() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer broke off.")


def not_understood() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer could not be understood.")


def too_long() -> ModelFailed:
    return ModelFailed("model_error", "The model provider's answer was too long.")


def told(error: Any) -> ModelFailed:
    """An error that the provider tells in its stream: `{message, code, type}`, or anything else."""
    code, kind, message = words(error)
    if is_too_long(code, kind, message):
        return context_too_long()
    if code in ("rate_limit_exceeded", "429") or kind == "rate_limit_error":
        return rate_limited(None)
    return ModelFailed("model_error", "The model provider failed while it answered.")


def rate_limited(retry_after: float | None) -> ModelFailed:
    return ModelFailed("model_rate_limited", "The model provider is at its rate limit.", retry_after=retry_after)


def context_too_long() -> ModelFailed:
    message = "What the model provider was sent is longer than the model's context window."
    return ModelFailed("context_length_exceeded", message)


def words(error: Any) -> tuple[str, str, str]:
    """The code, the type and the message of an error object, "" for what it has not."""
    given = error if isinstance(error, dict) else {}
    given = given["error"] if isinstance(given.get("error"), dict) else given
    code, kind, message = (str(given.get(name) or "")[:1000] for name in ("code", "type", "message"))
    return code, kind, message


def is_too_long(code: str, kind: str, message: str) -> bool:
    return code in _TOO_LONG or kind in _TOO_LONG or "maximum context length" in message
