"""Logs as events with fields: JSON lines of the Elastic Common Schema (ECS) on stdout, or text for people.

    log = structlog.get_logger(__name__)
    log.info("item_appended", conversation_id=conversation_id, version=version)

`FIELDS` maps our short names to ECS fields. Other names become `labels.<name>`. Each process calls `configure_logging`
once, and gives uvicorn `log_config=None`. `redaction.py` keeps content and secrets out of the log.
"""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Final, Literal

import msgspec
import structlog
from ecs_logging import StructlogFormatter

from infrastructure.observability.redaction import Event, SecretMask, redact

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

NUMBERS: Final = frozenset({"status", "duration_ns", "port", "position", "version"})
"""A value that is not an integer goes under `labels`, because Elasticsearch would refuse the line."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""These characters could forge a log line, move the cursor or reverse the direction of text."""

Processor = Callable[[Any, str, Any], Any]


def configure_logging(
    service: str,
    level: str,
    format: Literal["ecs", "console"],  # noqa: A002 - the setting's name
    secrets: Iterable[str] = (),
) -> None:
    """Call this before anything logs. Libraries' logs below WARNING are not written. `secrets` are masked in every value."""
    lock = threading.RLock()  # reentrant: a signal handler may log while its thread writes a line
    processors: list[Processor] = [structlog.contextvars.merge_contextvars, redact, SecretMask(secrets)]
    if format == "ecs":
        processors.append(_EcsRenderer(service))
    else:
        processors += [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _move_stack_trace,
            _escape_controls,
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()),
            lambda _logger, _method, line: line.encode("utf-8", "backslashreplace"),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=partial(_Stdout, lock),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler(processors, lock)]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.captureWarnings(capture=True)
    crashes = structlog.get_logger(__name__)
    sys.excepthook = lambda error_type, error, trace: _process_failed(crashes, error_type, error, trace)
    threading.excepthook = lambda args: crashes.critical("thread_failed", exc_info=args.exc_value)


def _process_failed(
    log: Any, error_type: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(error_type, KeyboardInterrupt):
        sys.__excepthook__(error_type, error, trace)
    else:
        log.critical("process_failed", exc_info=error)


class _Stdout:
    """A line that cannot be written is dropped."""

    def __init__(self, lock: threading.RLock, name: str = "") -> None:
        self.name = name
        self._lock = lock

    def msg(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """Passes records of the standard library's logging to our processors."""

    def __init__(self, processors: Sequence[Processor], lock: threading.RLock) -> None:
        super().__init__()
        self._processors = processors
        self._stdout_lock = lock

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage().partition("\n")[0]
        except Exception:  # noqa: BLE001 - a library may pass arguments that do not fit its format string
            message = "unreadable_log_record"
        event: Any = {"event": message, "exc_info": record.exc_info}
        logger = _Stdout(self._stdout_lock, record.name)
        for process in self._processors:
            event = process(logger, record.levelname.lower(), event)
        logger.msg(event)


class _EcsRenderer(StructlogFormatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def __call__(self, logger: Any, name: str, event_dict: dict[str, Any]) -> bytes:  # type: ignore[override]
        """Does not nest dotted names, because nesting took three quarters of the time."""
        fields: dict[str, Any] = {"log.level": name, "message": event_dict.pop("event")}
        for key, value in event_dict.items():
            wrong_type = key in NUMBERS and not isinstance(value, int)
            fields[f"labels.{key}" if wrong_type else _field(key)] = value
        fields["service.name"] = self._service
        fields["process.pid"] = os.getpid()
        if logger.name:
            fields["log.logger"] = logger.name
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return msgspec.json.encode(self.format_to_ecs({"@timestamp": now, **fields}))


@lru_cache(1024)
def _field(key: str) -> str:
    if key.startswith("error."):  # from `redact`
        return key
    return FIELDS.get(key) or f"labels.{key.replace('.', '_')}"


def _move_stack_trace(_logger: Any, _method: str, event: Event) -> Event:
    """structlog's renderer prints `exception` below the line."""
    if "error.stack_trace" in event:
        event["exception"] = event.pop("error.stack_trace")
    return event


def _escape_controls(_logger: Any, _method: str, event: Event) -> Event:
    """A stack trace is indented, so that none of its lines looks like a log line."""
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(f"    {_escaped(line)}" for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[key] = _escaped(value)
        elif isinstance(value, list):
            event[key] = [_escaped(element) if isinstance(element, str) else element for element in value]
    return event


def _escaped(text: str) -> str:
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
