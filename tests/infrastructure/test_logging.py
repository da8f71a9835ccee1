"""Log lines, as JSON in the Elastic Common Schema and as text for people, without message content or secrets."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import ecs_logging
import pydantic
import pytest
import structlog

from infrastructure.observability.logs import FIELDS, configure_logging
from infrastructure.observability.redaction import REFUSED
from tests.servers import ROOT

Lines = Callable[[], list[dict[str, Any]]]


class Refused(Exception):
    """Stands for an error of our own."""


Refused.__module__ = "domain.errors"


@pytest.fixture
def restored() -> Iterator[None]:
    """Restores the logging of this process after the test."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    yield
    root.handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.fixture
def lines(restored: None, capsysbinary: pytest.CaptureFixture[bytes]) -> Lines:
    configure_logging("command-api", "INFO", "ecs")

    def read() -> list[dict[str, Any]]:
        out = capsysbinary.readouterr().out
        assert out == b"" or out.endswith(b"\n")
        return [json.loads(line) for line in out.split(b"\n")[:-1]]

    return read


def log() -> Any:
    return structlog.get_logger("commands.append_item")


def test_an_event_becomes_a_line_of_the_elastic_common_schema(lines: Lines) -> None:
    log().info("item_appended", conversation_id="conv_1", version=3, method="POST", path="/v1/x", status=200, tries=2)
    (line,) = lines()
    assert datetime.fromisoformat(line.pop("@timestamp")).tzinfo is not None
    assert line.pop("process.pid") > 0
    assert line == {
        "log.level": "info",
        "message": "item_appended",
        "conversation.id": "conv_1",
        "conversation.version": 3,
        "http.request.method": "POST",
        "url.path": "/v1/x",
        "http.response.status_code": 200,
        "labels.tries": 2,
        "service.name": "command-api",
        "log.logger": "commands.append_item",
        "ecs.version": "1.6.0",
    }


def test_a_line_begins_with_the_fields_that_the_schema_wants_first(
    restored: None, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    configure_logging("command-api", "INFO", "ecs")
    log().info("item_appended")
    assert list(json.loads(capsysbinary.readouterr().out))[:3] == ["@timestamp", "log.level", "message"]


def test_elastics_formatter_writes_the_same_line(lines: Lines) -> None:
    log().info("item_appended", request_id="req_1", duration_ns=12_000)
    (line,) = lines()
    own = dict(line)
    own["event"] = own.pop("message")
    theirs = json.loads(ecs_logging.StructlogFormatter()(None, own.pop("log.level"), own))
    assert flat(theirs) == line


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested fields. The name of an inner field is its path, with dots."""
    flattened: dict[str, Any] = {}
    for key, value in fields.items():
        flattened |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flattened


def test_fields_bound_to_the_context_are_on_every_line(lines: Lines) -> None:
    structlog.contextvars.bind_contextvars(request_id="req_1", tenant="acme")
    log().info("one")
    logging.getLogger("pymongo").warning("two")
    assert [(line["message"], line["trace.id"], line["organization.id"]) for line in lines()] == [
        ("one", "req_1", "acme"),
        ("two", "req_1", "acme"),
    ]


def test_fields_that_the_schema_lacks_become_labels(lines: Lines) -> None:
    assert len(set(FIELDS.values())) == len(FIELDS)
    log().info("request", request_id="req_1", route="/v1/{id}", projection="conversations", **{"a.b": 1})
    (line,) = lines()
    assert (line["trace.id"], line["conversation.projection"]) == ("req_1", "conversations")
    assert (line["labels.route"], line["labels.a_b"]) == ("/v1/{id}", 1)


def test_a_text_is_not_written_into_a_field_for_numbers(lines: Lines) -> None:
    log().info("reply_ended", status="completed", version=4)
    log().info("request", status=HTTPStatus.OK)
    reply, request = lines()
    assert (reply["labels.status"], reply["conversation.version"]) == ("completed", 4)
    assert request["http.response.status_code"] == 200


def test_levels_below_the_configured_one_are_not_written(lines: Lines) -> None:
    log().debug("hidden")
    log().warning("shown")
    assert [(line["message"], line["log.level"]) for line in lines()] == [("shown", "warning")]


@pytest.mark.parametrize("key", [*sorted(REFUSED), "master_key", "postgres_url", "item_text"])
def test_the_value_of_a_key_for_content_or_secrets_is_dropped(lines: Lines, key: str) -> None:
    log().info("item_appended", conversation_id="conv_1", **{key: "hunter2"})
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert (line["labels.refused"], line["conversation.id"]) == ([key], "conv_1")


@pytest.mark.parametrize("value", [{"a": "hunter2"}, [{"a": "hunter2"}], b"hunter2", object()])
def test_values_other_than_scalars_and_lists_of_scalars_are_dropped(lines: Lines, value: object) -> None:
    log().info("request", thing=value)
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert line["labels.refused"] == ["thing"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a\nb\r\u2028c", "a\nb\r\u2028c"),
        ("\ud800", "\\ud800"),
        (2**70, str(2**70)),
        (float("nan"), "nan"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ([1, "a"], [1, "a"]),
        ("mongodb://me:hunter2@db/x", "mongodb://***@db/x"),
        ("x" * 5_000, "x" * 1_023 + "…"),
        (ValueError("hunter2"), "ValueError"),
        (Refused("conv_1 ended"), "domain.errors.Refused: conv_1 ended"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
    ],
)
def test_scalars_and_lists_of_scalars_are_logged_as_one_line(lines: Lines, value: object, written: object) -> None:
    log().info("request", thing=value)
    (line,) = lines()
    assert line["labels.thing"] == written


def test_an_exception_is_logged_by_type_and_frames_without_local_variables(lines: Lines) -> None:
    def fails() -> None:
        secret = "hunter" + "2"
        int(secret)

    try:
        fails()
    except ValueError:
        log().exception("append_failed", conversation_id="conv_1")
    (line,) = lines()
    assert (line["log.level"], line["error.type"]) == ("error", "ValueError")
    assert "in fails" in line["error.stack_trace"]
    assert "hunter2" not in json.dumps(line)
    assert "error.message" not in line


def test_the_message_of_our_own_error_is_logged_with_its_cause(lines: Lines) -> None:
    def refuses() -> None:
        try:
            {"a": 1}["hunter" + "2"]
        except KeyError as error:
            raise Refused("conv_1 has ended") from error

    with pytest.raises(Refused) as refused:
        refuses()
    log().error("append_failed", exc_info=refused.value)
    (line,) = lines()
    assert (line["error.type"], line["error.message"]) == ("domain.errors.Refused", "conv_1 has ended")
    assert [word in line["error.stack_trace"] for word in ("KeyError\n", "Refused: conv_1 has ended\n")] == [True, True]
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize("package", sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}))
def test_error_messages_of_each_of_our_packages_are_logged(lines: Lines, package: str) -> None:
    kind = type("Failed", (Exception,), {"__module__": f"{package}.errors"})
    log().error("reply_failed", exc_info=kind("resp_1 failed"))
    (line,) = lines()
    assert line["error.message"] == "resp_1 failed"


def test_a_validation_error_does_not_quote_what_was_sent(lines: Lines) -> None:
    try:
        pydantic.TypeAdapter(int).validate_python("hunter" + "2")
    except pydantic.ValidationError:
        log().exception("request_failed")
    (line,) = lines()
    assert line["error.type"] == "pydantic_core._pydantic_core.ValidationError"
    assert "hunter2" not in json.dumps(line)


def test_deep_recursion_and_a_cycle_of_causes_make_a_bounded_line(lines: Lines) -> None:
    def deep(n: int) -> None:
        deep(n + 1)

    try:
        deep(0)
    except RecursionError as error:
        other = OSError("away")
        error.__cause__, other.__cause__ = other, error
        log().exception("request_failed")
    (line,) = lines()
    assert len(line["error.stack_trace"]) <= 32_768


def test_log_records_of_libraries_at_warning_or_above_become_lines_like_ours(lines: Lines) -> None:
    logging.getLogger("httpx2").info("hidden")
    logging.getLogger("uvicorn.error").error("went wrong\nsecond line hunter2", extra={"body": "hunter2"})
    malformed = logging.LogRecord("pymongo", logging.WARNING, "", 1, "%d is no number", ("hunter2",), None)
    logging.getLogger().handlers[0].handle(malformed)
    went_wrong, unreadable = lines()
    assert (went_wrong["message"], went_wrong["log.level"]) == ("went wrong", "error")
    assert (went_wrong["log.logger"], went_wrong["service.name"]) == ("uvicorn.error", "command-api")
    assert unreadable["message"] == "unreadable_log_record"
    assert "hunter2" not in json.dumps([went_wrong, unreadable])


async def test_the_error_of_an_unawaited_task_is_logged_without_its_message(lines: Lines) -> None:
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "Task failed", "exception": ValueError("hunter2"), "task": "hunter2"})
    (line,) = lines()
    assert (line["message"], line["log.logger"], line["error.type"]) == ("Task failed", "asyncio", "ValueError")
    assert "hunter2" not in json.dumps(line)


def test_a_warning_is_a_line(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines()
    assert line["message"].endswith("DeprecationWarning: old thing")


def test_logging_to_a_closed_stdout_raises_nothing(restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        @property
        def buffer(self) -> Any:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Closed())
    configure_logging("command-api", "INFO", "ecs")
    log().info("nobody_listens")


def test_the_console_format_is_text_without_content(restored: None, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    configure_logging("command-api", "INFO", "console")
    try:
        int("hunter" + "2")
    except ValueError:
        log().exception("append_failed", conversation_id="conv_1", text="hunter2")
    out = capsysbinary.readouterr().out.decode()
    assert "append_failed" in out
    assert "conversation_id=conv_1" in out
    assert "Traceback" not in out
    assert "ValueError" in out
    assert "hunter2" not in out


CRASHES = """
import threading
from infrastructure.observability.logs import configure_logging
configure_logging("projector", "INFO", "ecs")
def fails():
    int("hunter" + "2")
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""


def test_crashes_of_a_thread_and_of_the_process_are_logged() -> None:
    ended = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True, check=False)
    messages = [json.loads(line)["message"] for line in ended.stdout.splitlines()]
    assert (ended.returncode, messages, ended.stderr) == (1, ["thread_failed", "process_failed"], "")
    assert "hunter2" not in ended.stdout


def test_an_interrupt_from_the_keyboard_is_no_failure(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "__excepthook__", lambda kind, *_: shown.append(kind))
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (shown, lines()) == ([KeyboardInterrupt], [])


def test_a_trace_shows_the_frames_that_python_shows(lines: Lines) -> None:
    with pytest.raises(Refused) as refused:
        raise Refused("conv_1 ended")
    log().error("append_failed", exc_info=refused.value)
    expected = "".join(traceback.format_exception(refused.value))
    (line,) = lines()
    assert line["error.stack_trace"] == expected.removeprefix("Traceback (most recent call last):\n")


FORGED = "x\n12:00:00 [info     ] forged\r\x1b[2J\x1b]0;title\x07\x85\u2028\u2029\u202e\u2066\x00\x7f"


def test_no_value_can_forge_a_line_on_the_console(restored: None, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    configure_logging("api", "INFO", "console")
    log().info("request", path=FORGED, names=[FORGED])
    log().info(FORGED)
    logging.getLogger("library").warning(FORGED)
    try:
        raise Refused(FORGED)
    except Refused:
        log().exception("failed")

    lines = capsysbinary.readouterr().out.decode().split("\n")

    assert all(line.isprintable() for line in lines)
    assert sum("forged" in line for line in lines) == 4  # of a library's message, only the first line is logged
    assert not any(line.startswith("12:00:00 [info     ] forged") for line in lines)
    assert "\\u202e" in lines[0]


SECRET = "hunter2/with@signs"


@pytest.mark.parametrize(
    "text",
    [
        f"password {SECRET} refused",
        "hunter2%2Fwith%40signs",
        "cs_" + "0a" * 16 + "_" + "b" * 64,
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJodW50ZXIyIjoxfQ.aHVudGVyMg",
        "Incorrect API key provided: sk-proj-hunter2hunter2hunter2",
    ],
)
def test_secrets_and_texts_that_look_like_secrets_are_masked(
    restored: None, capsysbinary: pytest.CaptureFixture[bytes], text: str
) -> None:
    configure_logging("command-api", "INFO", "ecs", [SECRET, "none"])
    log().info(text, thing=text, things=[text], path="none")
    logging.getLogger("pymongo").warning(text)
    try:
        raise Refused(text)
    except Refused:
        log().exception("failed")
    out = capsysbinary.readouterr().out
    assert len(out.splitlines()) == 3
    assert b"***" in out
    assert b'"url.path":"none"' in out  # "none" is too short to be masked
    for part in (b"hunter2", b"bbbbbbbb", b"aHVudGVyMg"):
        assert part not in out
