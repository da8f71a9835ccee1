"""What goes wrong with a provider, in our words: its own may hold what people wrote, or a key."""

from typing import Any

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
