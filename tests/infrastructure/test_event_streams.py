"""Server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.types import Message

from infrastructure.http.event_streams import COMMENT, EventStream, on_one_line

COMMENT_SECONDS = 0.05


async def sent_by(events: AsyncIterator[bytes], pause_of_client: float = 0) -> list[bytes]:
    """Streams to a client that needs `pause_of_client` seconds for each message."""
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        if body := message.get("body"):
            sent.append(body)
            await asyncio.sleep(pause_of_client)

    await EventStream(events, {}, COMMENT_SECONDS).stream_response(send)
    return sent


async def test_a_comment_is_sent_after_each_interval_without_events() -> None:
    async def events() -> AsyncIterator[bytes]:
        await asyncio.sleep(2.5 * COMMENT_SECONDS)
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"
        await asyncio.sleep(1.5 * COMMENT_SECONDS)

    assert await sent_by(events()) == [COMMENT, COMMENT, b"data: 1\n\n", b"data: 2\n\n", COMMENT]


async def test_no_comment_is_sent_within_an_event() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1"
        await asyncio.sleep(2.5 * COMMENT_SECONDS)
        yield b"\n"
        await asyncio.sleep(2.5 * COMMENT_SECONDS)
        yield b"\n"

    assert await sent_by(events()) == [b"data: 1", b"\n", b"\n"]

    async def two() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    assert await sent_by(two(), 3 * COMMENT_SECONDS) == [b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_failed_stream_leaves_no_task_running() -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise RuntimeError

    before = asyncio.all_tasks()
    results = await asyncio.gather(sent_by(fails()), sent_by(fails()), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError] * 2
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def test_json_on_one_line_has_no_character_that_ends_a_line() -> None:
    text = "a\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029b\U0001f642"
    line = on_one_line(json.dumps({text: text}, ensure_ascii=False).encode())
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {text: text}
