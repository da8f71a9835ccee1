"""POST /v1/import: many conversations, one per line. An invalid line does not stop the import."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from commands.import_conversations import Progress, _lines
from commands.main import create_app
from domain.events import ConversationStarted, ItemAppended
from infrastructure.event_log.append_request import LogBusy, LogUnavailable
from infrastructure.http.body import MAX_ITEMS_BODY_BYTES, MAX_READ_BYTES
from infrastructure.http.errors import ApiError
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import message
from tests.log import Log


def line(items: int, **fields: Any) -> bytes:
    return json.dumps({"items": [message(f"{n} 😀") for n in range(items)], **fields}).encode() + b"\n"


async def send(
    api: httpx.AsyncClient, *lines: bytes, key: str | None = None, chunk_bytes: int = 1000, status: int = 200
) -> dict[str, Any]:
    content = b"".join(lines)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), chunk_bytes):
            yield content[start : start + chunk_bytes]

    headers = {"Content-Type": "application/x-ndjson", **({"Idempotency-Key": key} if key else {})}
    answer = await api.post("/v1/import", content=chunks(), headers=headers)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def test_every_line_becomes_a_conversation_with_its_items_in_order(api: httpx.AsyncClient, log: Log) -> None:
    lines = [line(n * 150, metadata={"n": str(n)}, title=f"t{n}") for n in range(5)]
    assert await send(api, *lines, b"\n") == {
        "object": "import",
        "conversations": 5,
        "items": 1500,
        "failed": 0,
        "errors": [],
    }
    streams = [stream for (stream,) in log.rows("SELECT DISTINCT originator_id FROM events")]
    texts_by_number = {}
    for stream in streams:
        events = log.events(f"conv_{stream.hex}")
        started, *rest = events
        assert isinstance(started, ConversationStarted)
        texts = [json.loads(event.item)["content"] for event in rest if isinstance(event, ItemAppended)]
        texts_by_number[started.metadata["n"]] = texts
    assert texts_by_number == {str(n): [f"{m} 😀" for m in range(n * 150)] for n in range(5)}


async def test_a_refused_line_is_reported_and_the_import_continues(api: httpx.AsyncClient, log: Log) -> None:
    bad = [b"{not json\n", line(1, surprise=1), b'{"items": [{"role": "robot", "content": "x"}]}\n', b'"text"\n']
    report = await send(api, line(1), *bad, line(2))
    assert (report["conversations"], report["items"], report["failed"]) == (2, 3, 4)
    assert [error["line"] for error in report["errors"]] == [2, 3, 4, 5]
    assert report["errors"][2]["error"]["param"] == "items[0].role"
    assert log.count() == 5


async def test_if_every_line_is_refused_the_answer_is_a_4xx_with_each_error(api: httpx.AsyncClient, log: Log) -> None:
    bad = [b"\n", b"{not json\n", line(1, surprise=1), b'{"items": [{"role": "robot", "content": "x"}]}\n']
    report = await send(api, *bad, status=400)
    assert (report["object"], report["conversations"], report["items"], report["failed"]) == ("import", 0, 0, 3)
    assert [error["line"] for error in report["errors"]] == [2, 3, 4]
    assert (report["error"]["code"], report["error"]["type"]) == ("nothing_imported", "invalid_request_error")
    assert "Line 2: The body is not valid JSON" in report["error"]["message"]
    assert log.count() == 0
    long = b'{"items": [' + b" " * MAX_ITEMS_BODY_BYTES + b"]}\n"
    assert (await send(api, long, long, status=413, chunk_bytes=100_000))["failed"] == 2
    assert (await send(api, long, b"x", status=400, chunk_bytes=100_000))["failed"] == 2
    assert (await send(api, b"", status=200))["failed"] == 0


@pytest.mark.parametrize(
    ("errors", "status", "code", "retry"),
    [
        ([LogBusy("busy")], 503, "event_store_busy", "true"),
        ([ApiError(400, "a"), LogBusy("busy"), ApiError(413, "b")], 503, "event_store_busy", "true"),
        ([LogUnavailable(outcome_unknown=True), LogBusy("busy")], 503, "event_store_timeout", "false"),
        ([ApiError(413, "a"), ApiError(413, "b")], 413, "nothing_imported", "false"),
        ([ApiError(413, "a"), ApiError(400, "b"), ApiError(413, "c")], 400, "nothing_imported", "false"),
    ],
)
def test_if_nothing_is_imported_the_errors_of_the_lines_decide_the_status(
    errors: list[Exception], status: int, code: str, retry: str
) -> None:
    report = Progress()
    for number, error in enumerate(errors, 1):
        report.refuse(number, error)
    answer = report.answer()
    error = json.loads(bytes(answer.body))["error"]
    assert (answer.status_code, error["code"], answer.headers["x-should-retry"]) == (status, code, retry)


async def test_a_line_that_is_too_long_is_refused(api: httpx.AsyncClient) -> None:
    long = b'{"items": [' + b" " * 20_000_000 + b"]}\n"
    report = await send(api, long, line(1), chunk_bytes=100_000)
    assert (report["conversations"], report["failed"]) == (1, 1)
    assert report["errors"][0]["error"]["code"] == "request_too_large"


async def test_a_line_that_is_too_long_is_refused_before_it_ends(api: httpx.AsyncClient) -> None:
    refused = asyncio.Event()
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 4 * MAX_READ_BYTES and not refused.is_set():
            read += 1_000_000
            yield b"x" * 1_000_000

    lines = _lines(endless())
    assert await anext(lines) == (1, None)
    assert read <= MAX_READ_BYTES + 1_000_000
    refused.set()
    assert [line async for line in lines] == []


@pytest.mark.parametrize(
    ("content", "status"), [(b"\n" * 1_000_000, 200), (b"x\n" * 20_000, 400)], ids=["blank", "bad"]
)
async def test_an_import_lets_the_event_loop_run_between_lines(
    api: httpx.AsyncClient, content: bytes, status: int
) -> None:
    importing = asyncio.create_task(send(api, content, chunk_bytes=len(content), status=status))
    turns, longest = 0, 0.0
    while not importing.done():
        started_at = time.thread_time()
        await asyncio.sleep(0)
        turns, longest = turns + 1, max(longest, time.thread_time() - started_at)
    assert turns >= 1000
    assert longest < 0.05, "seconds of CPU in one turn"
    assert (await importing)["failed"] == content.count(b"x")


async def test_a_disconnected_import_leaves_no_conversation_half_imported(settings: Settings, log: Log) -> None:
    metrics = Metrics()
    app = create_app(settings, metrics, Event())
    async with app.router.lifespan_context(app):
        with capture_logs() as logged:
            status = await disconnect_after(app, line(450) + line(10) + b"{bad}\n" + line(3)[:-5])
    assert status == 400
    assert log.count() == 1 + 450 + 1 + 10
    [ended] = [entry for entry in logged if entry["event"] == "import_ended"]
    assert (ended["conversations"], ended["items"], ended["failed"]) == (2, 460, 1)
    labels = {"method": "POST", "route": "/v1/import", "status": "400"}
    assert metrics.registry.get_sample_value("conversation_store_http_requests_total", labels) == 1
    assert not [entry for entry in logged if entry["log_level"] in ("error", "critical")]


async def disconnect_after(app: ASGIApp, content: bytes) -> int:
    """Imports `content`, then disconnects. Returns the status of the answer."""
    received: Iterator[Any] = iter(
        [{"type": "http.request", "body": content, "more_body": True}, {"type": "http.disconnect"}]
    )
    statuses: list[int] = []

    async def receive() -> Any:
        return next(received)

    async def send_message(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"host", b"store"), (b"content-type", b"application/x-ndjson")]
    scope = {"type": "http", "method": "POST", "path": "/v1/import", "headers": headers, "query_string": b""}
    await app(scope, receive, send_message)
    return statuses[0]


async def test_a_repeat_with_the_same_key_imports_only_missing_lines(api: httpx.AsyncClient, log: Log) -> None:
    lines = [line(n * 150) for n in range(4)]
    first = await send(api, *lines[:2], b"{broken", key="import-1")
    events = log.count()
    assert first["failed"] == 1
    report = await send(api, *lines, key="import-1")
    assert (report["conversations"], report["items"]) == (4, 900)
    assert log.count() == 904
    assert (await send(api, *lines, key="import-1"))["conversations"] == 4
    assert log.count() == 904 > events
