"""POST /v1/import: many conversations in one request, through the same rules as other commands."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from domain.events import ConversationStarted, ItemAppended
from tests.commands.api_client import message
from tests.log import Log


def line(items: int, **fields: Any) -> bytes:
    return json.dumps({"items": [message(f"{n} 😀") for n in range(items)], **fields}).encode() + b"\n"


async def send(
    api: httpx.AsyncClient, *lines: bytes, key: str | None = None, chunk_bytes: int = 1000
) -> dict[str, Any]:
    content = b"".join(lines)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), chunk_bytes):
            yield content[start : start + chunk_bytes]

    headers = {"Idempotency-Key": key} if key else {}
    answer = await api.post("/v1/import", content=chunks(), headers=headers)
    assert answer.status_code == 200, answer.text
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


async def test_a_line_that_is_too_long_is_refused(api: httpx.AsyncClient) -> None:
    long = b'{"items": [' + b" " * 20_000_000 + b"]}\n"
    report = await send(api, long, line(1), chunk_bytes=100_000)
    assert (report["conversations"], report["failed"]) == (1, 1)
    assert report["errors"][0]["error"]["code"] == "request_too_large"


async def test_a_repeated_import_with_its_key_adds_nothing(api: httpx.AsyncClient, log: Log) -> None:
    lines = [line(n * 150) for n in range(4)]
    first = await send(api, *lines[:2], b"{broken", key="import-1")
    events = log.count()
    assert first["failed"] == 1
    report = await send(api, *lines, key="import-1")
    assert (report["conversations"], report["items"]) == (4, 900)
    assert log.count() == 904
    assert (await send(api, *lines, key="import-1"))["conversations"] == 4
    assert log.count() == 904 > events
