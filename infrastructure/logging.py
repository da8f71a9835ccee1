"""Logs as events with fields: JSON lines of the Elastic Common Schema on stdout, or text for people. Anyone may log.

    log = structlog.get_logger(__name__)
    log.info("item_appended", conversation_id=conversation_id, version=version)

becomes `message: item_appended`, `conversation.id`, `conversation.version`, `log.logger`, and whatever was bound with
`structlog.contextvars.bind_contextvars(request_id=...)`. `FIELDS` says what each short name becomes; a name that is not
in it becomes `labels.<name>`. A `main.py` calls `configure_logging` once, and gives uvicorn `log_config=None`.

What people wrote and what is secret stays out, in three ways. A key in `REFUSED` is dropped, and so is any value that is
no scalar; `labels.refused` names what was. Of an exception the type and the frames are logged, never a local variable,
and its message only if it is one of ours, or says no more than that something could not be reached: others quote their
input. Of what libraries log, the first line at WARNING and above.
"""

import contextlib
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import date
from enum import Enum
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import structlog
from ecs_logging import StructlogFormatter

FIELDS: Final[Mapping[str, str]] = {
    "request_id": "trace.id",
    "tenant": "organization.id",
    "subject": "user.id",
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "duration_ns": "event.duration",
    "host": "server.address",
    "port": "server.port",
    "conversation_id": "conversation.id",
    "item_id": "conversation.item.id",
    "response_id": "conversation.response.id",
    "command_id": "conversation.command.id",
    "event_type": "conversation.event.type",
    "position": "conversation.position",
    "version": "conversation.version",
    "projection": "conversation.projection",
    "model": "conversation.model",
}
"""Our keyword names, and the field of each in the Elastic Common Schema or in our own `conversation.*`."""

NUMBERS: Final = frozenset({"status", "duration_ns", "port", "position", "version"})
"""Those whose field is a number: with another type they go under `labels`, or Elasticsearch would refuse the line."""

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
_LONGEST_VALUE = 1_024  # characters: what Elasticsearch indexes of a keyword
_LONGEST_TRACE = 32_768
_DEEPEST_TRACE = 50  # frames

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Any], Any]


def configure_logging(service: str, level: str, format: Literal["ecs", "console"]) -> None:  # noqa: A002  # its setting
    """Sends every log of this process to stdout, one line each: ours from `level` up, those of libraries from WARNING up.

    `service` becomes `service.name`. Crashes of the process and of threads are logged the same way. Loggers are fixed at
    their first use: call it before anything logs.
    """
    processors: list[Processor] = [structlog.contextvars.merge_contextvars, _screen]
    if format == "ecs":
        processors.append(_EcsRenderer(service))
    else:
        processors += [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _trace_last,
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()),
            lambda _logger, _method, line: line.encode("utf-8", "backslashreplace"),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=_Stdout,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_FromLibraries(processors)]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.captureWarnings(capture=True)
    crashes = structlog.get_logger(__name__)
    sys.excepthook = lambda kind, error, trace: _process_failed(crashes, kind, error, trace)
    threading.excepthook = lambda args: crashes.critical("thread_failed", exc_info=args.exc_value)


def _process_failed(log: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("process_failed", exc_info=error)


class _Stdout:
    """Whole lines to whatever stdout is at that moment. A log that cannot be written stops nothing."""

    _lock = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    debug = info = warning = error = critical = msg


class _FromLibraries(logging.Handler):
    """Gives the records of the standard library's logging to our processors, without their extras."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage().partition("\n")[0]
        except Exception:  # noqa: BLE001  # arguments that do not fit their format: the caller's mistake, not ours to raise
            message = "unreadable_log_record"
        event: Any = {"event": message, "exc_info": record.exc_info}
        logger = _Stdout(record.name)
        for process in self._processors:
            event = process(logger, record.levelname.lower(), event)
        logger.msg(event)


class _EcsRenderer(StructlogFormatter):
    """A screened event as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def __call__(self, logger: Any, name: str, event_dict: dict[str, Any]) -> bytes:  # type: ignore[override]
        """As its parent's, but bytes, and with dotted names left dotted: to nest them took three quarters of the time."""
        fields: dict[str, Any] = {"log.level": name, "message": event_dict.pop("event")}
        for key, value in event_dict.items():
            if key in FIELDS and (key not in NUMBERS or isinstance(value, int)):
                fields[FIELDS[key]] = value
            elif key.startswith("error."):
                fields[key] = value
            else:
                fields["labels." + key.replace(".", "_")] = value
        fields["service.name"] = self._service
        fields["process.pid"] = os.getpid()
        if logger.name:
            fields["log.logger"] = logger.name
        ecs = self.format_to_ecs(fields)
        return msgspec.json.encode({"@timestamp": ecs.pop("@timestamp"), **ecs})


def _trace_last(_logger: Any, _method: str, event: Event) -> Event:
    """The event with its stack trace where structlog's own renderer looks for it, to print it below the line."""
    if "error.stack_trace" in event:
        event["exception"] = event.pop("error.stack_trace")
    return event


def _screen(_logger: Any, _method: str, event: Event) -> Event:
    """The event with what may be logged, and with its exception as text."""
    screened: dict[str, Any] = {"event": _clean(str(event.pop("event")))}
    error = event.pop("exc_info", None)
    refused = []
    for key, value in event.items():
        if key in REFUSED or key.endswith(_REFUSED_ENDS) or (kept := _value(value)) is _NOTHING:
            refused.append(key)
        elif kept is not None:
            screened[key] = kept
    if refused:
        screened["refused"] = sorted(refused)
    if error and (raised := _raised(error)) is not None:
        screened["error.type"] = _name(type(raised))
        if message := _message(raised):
            screened["error.message"] = message
        screened["error.stack_trace"] = _trace(raised)[-_LONGEST_TRACE:]
    return screened


_NOTHING: Final = object()


def _value(value: Any) -> Any:
    """The value if it is a scalar or a list of scalars, else `_NOTHING`."""
    if isinstance(value, list | tuple | set | frozenset):
        scalars = [_scalar(each) for each in value]
        return _NOTHING if any(each is _NOTHING for each in scalars) else scalars
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """The value as JSON may carry it, or `_NOTHING`."""
    if type(value) is str:
        return _clean(value)
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
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 1] + "…"
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
        frames = "".join(traceback.format_tb(current.__traceback__, limit=-_DEEPEST_TRACE))
        said = _message(current)
        parts = f" of {len(current.exceptions)}" if isinstance(current, BaseExceptionGroup) else ""
        lines.insert(0, f"{frames}{_name(type(current))}{parts}{': ' if said else ''}{said}\n")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n".join(lines)
