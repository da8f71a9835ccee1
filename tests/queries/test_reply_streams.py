"""The read API streams running replies, and streams finished replies from their records."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

import httpx
import msgspec

from domain.commands import CompleteReply, DescribeReply, NewItem
from domain.events import InputItem, Timing, Usage
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.stream_pages import SLICE_BYTES, StreamPages
from infrastructure.ids import mint
from infrastructure.settings import Settings
from queries.main import open_dependencies
from replies import stream_events
from replies.following import ReplyStreams
from replies.live_events import stream_key
from replies.live_reader import LiveReader
from replies.record import Record, find_record, read_record
from replies.response_from_events import opening_events
from tests.queries.conftest import eventually, served
from tests.queries.manual_projector import ManualProjector
from tests.queries.query_process import peak_memory, query_process, unread_streams
from tests.queries.writer import Writer


async def complete(
    write: Writer, conversation_id: str, response_id: str, input_items: tuple[InputItem, ...], *deltas: str
) -> None:
    """Completes the reply with one message, whose text came in these deltas."""
    part = {"type": "output_text", "text": "".join(deltas), "annotations": []}
    message = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    completed = CompleteReply(
        response_id=response_id,
        model="smol-1",
        author="smol-1",
        input=input_items,
        output=(NewItem(item_id=mint("msg"), item=msgspec.json.encode(message)),),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
        delta_lengths=tuple(map(len, deltas)),
    )
    await write.execute(conversation_id, completed)


@asynccontextmanager
async def stream_of(client: httpx.AsyncClient, response_id: str, **query: Any) -> AsyncIterator[httpx.Response]:
    params = {"stream": "true", **query}
    async with client.stream("GET", f"/v1/responses/{response_id}", params=params) as answer:
        assert answer.status_code == 200
        yield answer


async def events_of(client: httpx.AsyncClient, response_id: str, **query: Any) -> list[dict[str, Any]]:
    async with stream_of(client, response_id, **query) as answer:
        return [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]


async def test_sixty_clients_that_follow_replies_get_all_events(
    settings: Settings, write: Writer, live: ManualProjector
) -> None:
    conversation_ids = [await write.start() for _ in range(12)]
    requested = [await write.request_reply(conversation_id, "?") for conversation_id in conversation_ids]
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20, limits=httpx.Limits(max_connections=None)) as client,
        asyncio.timeout(60),
    ):
        ready = asyncio.Barrier(61)

        async def follow(response_id: str) -> list[dict[str, Any]]:
            async with stream_of(client, response_id) as answer:
                await ready.wait()
                return [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]

        followers = [asyncio.create_task(follow(requested[number % 12][0])) for number in range(60)]
        await ready.wait()
        for conversation_id, (response_id, input_items) in zip(conversation_ids, requested, strict=True):
            await complete(write, conversation_id, response_id, input_items, "one ", "two ", response_id)
            answers = await asyncio.gather(
                client.get("/v1/conversations"), client.get(f"/v1/conversations/{conversation_id}/items")
            )
            assert [(answer.status_code, answer.headers.get("x-consistency")) for answer in answers] == [
                (200, None)
            ] * 2
        for number, events in enumerate(await asyncio.gather(*followers)):
            response_id = requested[number % 12][0]
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == (
                f"one two {response_id}"
            )
            assert events[-1]["type"] == "response.completed"
            assert await events_of(client, response_id, starting_after=4) == events[5:]


async def test_a_follower_gets_an_error_event_when_the_conversation_is_deleted(
    settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start()
    response_id, _ = await write.request_reply(conversation_id, "?")
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        stream_of(client, response_id) as answer,
    ):
        await write.delete(conversation_id)
        async with asyncio.timeout(5):
            lines = [line async for line in answer.aiter_lines() if line]
    assert lines[0] == "event: error"
    assert response_id in json.loads(lines[1].removeprefix("data: "))["message"]


async def test_a_head_request_for_a_live_stream_leaves_no_task_running(settings: Settings, write: Writer) -> None:
    response_id, _ = await write.request_reply(await write.start(), "?")
    async with served(settings) as url, httpx.AsyncClient(base_url=url, timeout=5) as client:
        await client.get("/health/live")
        before = len(asyncio.all_tasks())
        answer = await client.head(f"/v1/responses/{response_id}", params={"stream": "true"})
        await eventually(lambda: len(asyncio.all_tasks()) <= before, 3)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_a_stream_of_two_hundred_thousand_deltas_is_sent_in_slices(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await complete(write, conversation_id, response_id, input_items, *(f"{number} " for number in range(200_000)))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).stream_log

        async def read() -> Record:
            return await read_record(log, conversation_id, response_id)

        record = await find_record(log, response_id)
        counting = asyncio.create_task(count_turns())
        chunks, sent = 0, 0
        async for chunk in dependencies.reply_streams.follow(record, read, -1, ANONYMOUS):
            chunks += 1
            sent += len(chunk)
            assert len(chunk) <= SLICE_BYTES
        counting.cancel()
    assert sent > 200_000 * 150
    assert turns > chunks * 0.9, "other tasks have a turn after each slice"


async def test_a_stream_is_the_same_if_nothing_is_kept_in_memory(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await complete(write, conversation_id, response_id, input_items, *("word " * 9 for _ in range(20_000)))
    bodies = []
    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).stream_log

        async def read() -> Record:
            return await read_record(log, conversation_id, response_id)

        for max_kept_bytes in (32_000_000, 1):
            pages, shutdown = StreamPages(max_kept_bytes), Event()
            watch = ConversationWatch(dependencies.stream_log.head_of_each, shutdown)
            streams = ReplyStreams(LiveReader(dependencies.redis, pages), watch, pages, shutdown)
            record = await find_record(log, response_id)
            bodies.append(b"".join([chunk async for chunk in streams.follow(record, read, -1, ANONYMOUS)]))
    assert bodies[0] == bodies[1]
    assert bodies[0].count(b"\n\n") == 20_000 + 2 + 2 + 3 + 1


async def test_a_stream_from_the_record_ends_with_the_new_metadata(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await complete(write, conversation_id, response_id, input_items, *("word " * 9 for _ in range(20_000)))
    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).stream_log

        async def read() -> Record:
            return await read_record(log, conversation_id, response_id)

        looked_up = asyncio.Event()

        async def look_up(conversation_ids: Sequence[str]) -> list[Head | None]:
            found = await dependencies.stream_log.head_of_each(conversation_ids)
            looked_up.set()
            return found

        pages, shutdown = StreamPages(), Event()
        watch = ConversationWatch(look_up, shutdown)
        streams = ReplyStreams(LiveReader(dependencies.redis, pages), watch, pages, shutdown)
        record = await find_record(log, response_id)
        body = b""
        async for chunk in streams.follow(record, read, -1, ANONYMOUS):
            if not body:
                await write.execute(conversation_id, DescribeReply(response_id=response_id, metadata={"new": "1"}))
                for _ in range(2):  # the first look-up may have begun before the change
                    looked_up.clear()
                    await looked_up.wait()
            body += chunk
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]
    assert [event["sequence_number"] for event in events] == list(range(20_000 + 2 + 2 + 3 + 1))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["metadata"] == {"new": "1"}


async def test_forty_unread_streams_of_a_large_reply_take_little_memory(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    response_id, input_items = await write.request_reply(conversation_id, "?")
    await complete(write, conversation_id, response_id, input_items, *("word " * 100 for _ in range(4_000)))
    path = f"/v1/responses/{response_id}?stream=true"
    async with query_process(settings) as (url, pid), asyncio.timeout(60):
        before = peak_memory(pid)
        with unread_streams(url, path, 40) as sockets:
            for connection in sockets:
                assert await asyncio.to_thread(connection.recv, 12) == b"HTTP/1.1 200"
                assert await asyncio.to_thread(connection.recv, 2000)
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                events = await events_of(client, response_id)
            grown = peak_memory(pid) - before
    assert len(events) == 4_000 + 2 + 2 + 3 + 1
    assert grown < 120_000_000


async def test_an_end_that_only_redis_has_is_not_shown(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    response_id, _ = await write.request_reply(conversation_id, "?")
    async with open_dependencies(settings, Event()) as dependencies:
        record = await find_record(dependencies.of(ANONYMOUS).log, response_id)
        opening = opening_events(record.requested, conversation_id)
        events = [*opening, stream_events.ended("completed", record.response())]
        for number, event in enumerate(events):
            entry: Any = {"d": stream_events.encode(event, number)}
            await dependencies.redis.xadd(stream_key(response_id), entry, f"1-{number}")
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        stream_of(client, response_id) as answer,
    ):
        receiving = asyncio.create_task(answer.aread())
        done, _ = await asyncio.wait({receiving}, timeout=0.5)
        await write.fail_reply(conversation_id, response_id)
        async with asyncio.timeout(10):
            lines = (await receiving).decode().splitlines()
    types = [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]
    assert not done
    assert types[0] == "response.created"
    assert types[-1] == "response.failed"
    assert "response.completed" not in types
