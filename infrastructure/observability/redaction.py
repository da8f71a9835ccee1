"""Keeps content and secrets out of the logs. The field `refused` lists the keys of dropped values.

An exception's message is kept only if the exception is ours or in `_CONNECTION_ERRORS`. The message of another exception
may quote content.
"""

import math
import re
import sys
import traceback
from collections.abc import Iterable, MutableMapping
from datetime import date
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote, quote_plus
from uuid import UUID

_CONTENT = {"text", "content", "contents", "body", "prompt", "instructions", "title", "summary", "comment", "metadata"}
_PAYLOADS = {"input", "output", "arguments", "item", "items", "messages", "delta", "headers"}
_SECRETS = {"authorization", "cookie", "api_key", "apikey", "key", "password", "secret", "token", "credentials", "dsn"}
REFUSED: Final = frozenset(_CONTENT | _PAYLOADS | _SECRETS)
"""Values with these keys are never logged."""

_REFUSED_SUFFIXES: Final = ("_key", "_token", "_secret", "_password", "_text", "_content", "_body", "_url")
_OUR_PACKAGES: Final = frozenset(
    {"domain", "infrastructure", "context", "replies", "projections", "commands", "queries", "scripts"}
)
_CONNECTION_ERRORS: Final = frozenset(
    {
        "builtins.OSError",
        "openai.APIConnectionError",
        "psycopg.errors.OperationalError",
        "psycopg.OperationalError",
        "pymongo.errors.ConnectionFailure",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
    }
)
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_SHAPES: Final = (r"cs_[0-9a-f]{32}_[0-9a-f]{16,}", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", r"\bsk-[\w-]{16,}")
"""Patterns of this store's API keys, of JWTs, and of providers' keys."""

_MIN_SECRET_LENGTH = 6
"""A shorter secret is not masked, because it may be an ordinary word."""

_MAX_VALUE_LENGTH = 1_024  # characters; Elasticsearch does not index a longer keyword
_MAX_TRACE_LENGTH = 32_768
_MAX_TRACE_DEPTH = 50  # frames

Event = MutableMapping[str, Any]
_DROPPED: Final = object()


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """A structlog processor: removes what must not be logged, and turns the exception into text."""
    kept: dict[str, Any] = {"event": _clean(str(event.pop("event")))}
    error = event.pop("exc_info", None)
    refused = []
    for key, value in event.items():
        if _is_refused(key) or (loggable := _value(value)) is _DROPPED:
            refused.append(key)
        elif loggable is not None:
            kept[key] = loggable
    if refused:
        kept["refused"] = sorted(refused)
    if error and (exception := _exception(error)) is not None:
        kept["error.type"] = _type_name(type(exception))
        if message := _message(exception):
            kept["error.message"] = message
        kept["error.stack_trace"] = _stack_trace(exception)[-_MAX_TRACE_LENGTH:]
    return kept


class SecretMask:
    """A structlog processor that runs after `redact`. Masks secrets, and what looks like a key or a token."""

    def __init__(self, secrets: Iterable[str]) -> None:
        written = {form for secret in secrets for form in (secret, quote(secret, safe=""), quote_plus(secret))}
        long = sorted((form for form in written if len(form) >= _MIN_SECRET_LENGTH), key=len, reverse=True)
        self._secret = re.compile("|".join([*_SHAPES, *map(re.escape, long)]))

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        for key, value in event.items():
            if type(value) is str:
                event[key] = self._secret.sub("***", value)
            elif type(value) is list:
                event[key] = [self._secret.sub("***", part) if type(part) is str else part for part in value]
        return event


@lru_cache(1024)
def _is_refused(key: str) -> bool:
    return key in REFUSED or key.endswith(_REFUSED_SUFFIXES)


def _value(value: Any) -> Any:
    """`_DROPPED` if the value is neither a scalar nor a list of scalars."""
    if type(value) is str:
        return _clean(value)
    if isinstance(value, list | tuple | set | frozenset):
        scalars = [_scalar(element) for element in value]
        return _DROPPED if any(scalar is _DROPPED for scalar in scalars) else scalars
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _scalar(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, BaseException):
        message = _message(value)
        return f"{_type_name(type(value))}: {message}" if message else _type_name(type(value))
    return _clean(str(value)) if isinstance(value, str | UUID | date | PurePath) else _DROPPED


def _clean(text: str) -> str:
    """The text without credentials, of bounded length, and encodable as UTF-8."""
    if "//" in text:
        text = _CREDENTIALS.sub("//***@", text)
    if len(text) > _MAX_VALUE_LENGTH:
        text = text[: _MAX_VALUE_LENGTH - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _exception(error: Any) -> BaseException | None:
    """`error`: an exception, the tuple of `sys.exc_info()`, or True. True means the exception that is being handled."""
    if isinstance(error, BaseException):
        return error
    exception = error[1] if isinstance(error, tuple) else sys.exc_info()[1]
    return exception if isinstance(exception, BaseException) else None


def _type_name(error_type: type) -> str:
    return (
        error_type.__qualname__
        if error_type.__module__ == "builtins"
        else f"{error_type.__module__}.{error_type.__qualname__}"
    )


def _message(error: BaseException) -> str:
    """Returns an empty text if the message may contain content."""
    is_ours = type(error).__module__.partition(".")[0] in _OUR_PACKAGES
    if not is_ours and not any(
        f"{error_type.__module__}.{error_type.__qualname__}" in _CONNECTION_ERRORS for error_type in type(error).__mro__
    ):
        return ""
    return _clean(str(error))


def _stack_trace(error: BaseException) -> str:
    """Oldest exception first, without local variables."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__, limit=-_MAX_TRACE_DEPTH))
        message = _message(current)
        parts = f" of {len(current.exceptions)}" if isinstance(current, BaseExceptionGroup) else ""
        lines.insert(0, f"{frames}{_type_name(type(current))}{parts}{': ' if message else ''}{message}\n")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n".join(lines)
