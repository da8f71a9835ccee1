"""Clients that follow running replies share the reads of Redis. Each client gets every event once and in order."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infrastructure.http.stream_pages import SLICE_BYTES, Page, StreamPages
from infrastructure.settings import Settings
from infrastructure.stores import redis
from replies import stream_events
from replies.event_buffer import EventBuffer
from replies.live_events import LiveWriter, stream_key
from replies.live_reader import LiveReader, MissingEntries


def event(number: int, text: str = "word") -> stream_events.StreamEvent:
    return {"type": "response.output_text.delta", "delta": f"{text} {number} ", "item_id": "msg_1"}


def encoded(number: int, text: str = "word") -> bytes:
    return stream_events.encode(event(number, text), number)


def end(number: int) -> bytes:
    return stream_events.encode(stream_events.ended("completed", b"{}"), number)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Redis]:
    client = redis.connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def writer(settings: Settings) -> AsyncIterator[LiveWriter]:
    client = redis.connect(settings, answer_seconds=None)
    writer = LiveWriter(client)
    writer.start()
    yield writer
    await writer.close()
    await client.aclose()


@pytest.fixture
async def reader(client: Redis) -> AsyncIterator[LiveReader]:
    reader = LiveReader(client, StreamPages())
    yield reader
    await reader.close()


async def next_page(reader: LiveReader, response_id: str, after: int) -> Page:
    """Waits for the page after the event `after`."""
    async with asyncio.timeout(10):
        with reader.follow(response_id) as reply:
            while True:
                changed = reply.changed
                if (page := await reader.page(response_id, after)) is not None:
                    return page
                await changed


async def read_all(reader: LiveReader, response_id: str, pause_seconds: float = 0) -> bytes:
    bodies = []
    after = -1
    with reader.follow(response_id):
        while True:
            page = await next_page(reader, response_id, after)
            bodies.append(page.body)
            after = page.last
            if page.ends:
                return b"".join(bodies)
            await asyncio.sleep(pause_seconds)


async def test_fast_and_slow_clients_get_every_event_of_their_replies(reader: LiveReader, writer: LiveWriter) -> None:
    count = 2_000
    response_ids = [f"resp_{number}" for number in range(5)]
    clients = [
        asyncio.create_task(read_all(reader, response_id, pause))
        for response_id in response_ids
        for pause in (0, 0.001, 0.05, 0.3)
    ]
    for number in range(count):
        for response_id in response_ids:
            writer.write(response_id, number, encoded(number, response_id), lambda _: None)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    late = [asyncio.create_task(read_all(reader, response_id)) for response_id in response_ids]
    for response_id in response_ids:
        writer.write(response_id, count, end(count), lambda _: None)
    bodies = await asyncio.gather(*clients, *late)
    for response_id, body in zip(
        [*(id_ for id_ in response_ids for _ in range(4)), *response_ids], bodies, strict=True
    ):
        assert body == b"".join(encoded(number, response_id) for number in range(count)) + end(count)


async def test_two_hundred_clients_of_silent_replies_share_a_few_connections(
    reader: LiveReader, client: Redis, settings: Settings
) -> None:
    async with redis.connect(settings) as other:
        before = len(await other.client_list())
        waiting = [asyncio.create_task(next_page(reader, f"resp_{number}", -1)) for number in range(200)]
        await client.xadd(stream_key("resp_7"), {"d": encoded(0)}, id="1-0")
        assert (await waiting.pop(7)).body == encoded(0)
        assert len(await other.client_list()) <= before + 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_client_that_is_behind_continues_after_its_last_event(reader: LiveReader, client: Redis) -> None:
    large = "x" * SLICE_BYTES
    for number in range(4):
        await client.xadd(stream_key("resp_1"), {"d": encoded(number, large)}, id=f"1-{number}")
    with reader.follow("resp_1"):
        assert (await next_page(reader, "resp_1", -1)).body == b"".join(encoded(number, large) for number in range(4))
        assert (await next_page(reader, "resp_1", 2)).body == encoded(3, large)


async def test_a_read_whose_next_event_is_missing_raises_missing_entries(reader: LiveReader, client: Redis) -> None:
    for number in (5, 6):
        await client.xadd(stream_key("resp_1"), {"d": encoded(number)}, id=f"1-{number}")
    with pytest.raises(MissingEntries):
        await next_page(reader, "resp_1", 3)
    assert (await next_page(reader, "resp_1", 4)).body == encoded(5) + encoded(6)


async def test_a_key_of_a_wrong_type_does_not_stop_other_streams(reader: LiveReader, client: Redis) -> None:
    with reader.follow("resp_good"), reader.follow("resp_bad"):
        for response_id in ("resp_good", "resp_bad"):
            await client.xadd(stream_key(response_id), {"d": encoded(0)}, id="1-0")
            await next_page(reader, response_id, -1)
        await client.set(stream_key("resp_bad"), "not a stream")
        for number in range(1, 4):
            await client.xadd(stream_key("resp_good"), {"d": encoded(number)}, id=f"1-{number}")
            assert (await next_page(reader, "resp_good", number - 1)).body == encoded(number)
        await client.delete(stream_key("resp_bad"))
        await client.xadd(stream_key("resp_bad"), {"d": encoded(1)}, id="1-1")
        assert (await next_page(reader, "resp_bad", 0)).body == encoded(1)


async def test_a_stream_from_memory_comes_in_slices_of_limited_size() -> None:
    buffer = EventBuffer()
    texts = ["a"] * 5_000 + ["b" * 300_000] + ["c"] * 5
    events = [buffer.append(event(number, text))[1] for number, text in enumerate(texts)]
    buffer.make_readable(len(texts) - 1)
    buffer.end()
    slices = [chunk async for chunk in buffer.stream()]
    assert b"".join(slices) == b"".join(events)
    assert max(map(len, slices)) <= SLICE_BYTES
