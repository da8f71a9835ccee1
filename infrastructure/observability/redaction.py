"""What may be logged: keeps out what people wrote and what is secret. Only `infrastructure/observability/logs.py` imports it.

A key in `REFUSED` is dropped, and so is any value that is no scalar; `refused` names what was. Of an exception the type
and the frames are logged, never a local variable, and its message only if it is one of ours, or says no more than that
something could not be reached: the messages of others quote their input.
"""

import math
import re
import sys
import traceback
from collections.abc import MutableMapping
from datetime import date
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

_WRITTEN = {"text", "content", "contents", "body", "prompt", "instructions", "title", "summary", "comment", "metadata"}
_SENT = {"input", "output", "arguments", "item", "items", "messages", "delta", "headers"}
_SECRET = {"authorization", "cookie", "api_key", "apikey", "key", "password", "secret", "token", "credentials", "dsn"}
REFUSED: Final = frozenset(_WRITTEN | _SENT | _SECRET)
"""Keys that are never logged; nor are those that end in one of `_REFUSED_ENDS`."""

_REFUSED_ENDS: Final = ("_key", "_token", "_secret", "_password", "_text", "_content", "_body", "_url")
_OURS: Final = frozenset({"commands", "queries", "projections", "domain", "infrastructure", "scripts"})
_HARMLESS: Final = frozenset(
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
_MAX_VALUE_LENGTH = 1_024  # characters: what Elasticsearch indexes of a keyword
_MAX_TRACE_LENGTH = 32_768
_MAX_TRACE_DEPTH = 50  # frames

Event = MutableMapping[str, Any]
_NOTHING: Final = object()


def screen(_logger: Any, _method: str, event: Event) -> Event:
    """The event with what may be logged, and with its exception as text."""
    screened: dict[str, Any] = {"event": _clean(str(event.pop("event")))}
    error = event.pop("exc_info", None)
    refused = []
    for key, value in event.items():
        if _is_refused(key) or (kept := _value(value)) is _NOTHING:
            refused.append(key)
        elif kept is not None:
            screened[key] = kept
    if refused:
        screened["refused"] = sorted(refused)
    if error and (raised := _raised(error)) is not None:
        screened["error.type"] = _name(type(raised))
        if message := _message(raised):
            screened["error.message"] = message
        screened["error.stack_trace"] = _trace(raised)[-_MAX_TRACE_LENGTH:]
    return screened


@lru_cache(1024)
def _is_refused(key: str) -> bool:
    return key in REFUSED or key.endswith(_REFUSED_ENDS)


def _value(value: Any) -> Any:
    """The value if it is a scalar or a list of scalars, else `_NOTHING`."""
    if type(value) is str:
        return _clean(value)
    if isinstance(value, list | tuple | set | frozenset):
        scalars = [_scalar(each) for each in value]
        return _NOTHING if any(each is _NOTHING for each in scalars) else scalars
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """The value as JSON may carry it, or `_NOTHING`."""
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
        return f"{_name(type(value))}: {message}" if message else _name(type(value))
    return _clean(str(value)) if isinstance(value, str | UUID | date | PurePath) else _NOTHING


def _clean(text: str) -> str:
    """The text without credentials, not too long, and without what UTF-8 cannot carry."""
    if "//" in text:
        text = _CREDENTIALS.sub("//***@", text)
    if len(text) > _MAX_VALUE_LENGTH:
        text = text[: _MAX_VALUE_LENGTH - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _raised(error: Any) -> BaseException | None:
    """The exception of an `exc_info`: itself, the usual triple, or True for the one being handled."""
    if isinstance(error, BaseException):
        return error
    raised = error[1] if isinstance(error, tuple) else sys.exc_info()[1]
    return raised if isinstance(raised, BaseException) else None


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    """What the exception says, if that cannot be something people wrote; else nothing."""
    ours = type(error).__module__.partition(".")[0] in _OURS
    if not ours and not any(f"{kind.__module__}.{kind.__qualname__}" in _HARMLESS for kind in type(error).__mro__):
        return ""
    return _clean(str(error))


def _trace(error: BaseException) -> str:
    """The frames of an exception and of those that led to it, oldest first, without local variables."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__, limit=-_MAX_TRACE_DEPTH))
        said = _message(current)
        parts = f" of {len(current.exceptions)}" if isinstance(current, BaseExceptionGroup) else ""
        lines.insert(0, f"{frames}{_name(type(current))}{parts}{': ' if said else ''}{said}\n")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n".join(lines)
