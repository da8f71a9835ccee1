"""The events of a conversation are its audit trail, in pages and as a live stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from domain.commands import DescribeConversation, WriteTitle
from domain.events import Event as LogEvent
from infrastructure.access.principal import ANONYMOUS
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from queries.events import event_json, read_page
from queries.main import open_dependencies
from tests.event_log.test_catalogue import EXAMPLES, EXTENDED
from tests.queries.conftest import eventually, served
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.test_blanking import recorded
from tests.queries.writer import Writer


async def page_of(api: httpx.AsyncClient, conversation_id: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/events", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("event", [*EXAMPLES, *EXTENDED], ids=lambda event: event.topic)
def test_every_event_is_written_as_json_without_unknown_fields(event: LogEvent) -> None:
    assert set(msgspec.json.decode(event_json(recorded(event)))["data"]) <= set(event.__struct_fields__)


async def test_the_events_of_a_conversation_are_returned_in_full_without_any_view(
    api: httpx.AsyncClient, write: Writer
) -> None:
    conversation_id = await write.start("hello", metadata={"a": "b"})
    response_id, input_items = await write.request_reply(conversation_id, "two plus two?", temperature=0.5)
    output = await write.complete_reply(conversation_id, response_id, input_items, "four")
    await write.retract(conversation_id, input_items[0].item_id)

    page = await page_of(api, conversation_id)

    assert [event["type"] for event in page["data"]] == [
        "conversation.started",
        "item.appended",
        "reply.requested",
        "item.appended",
        "item.appended",
        "reply.completed",
        "item.retracted",
    ]
    assert [event["version"] for event in page["data"]] == [1, 2, 3, 4, 5, 6, 7]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (1, 7, False)
    started, hello, requested, _, four, completed, retracted = page["data"]
    assert started["object"] == "event"
    assert started["actor"] == "someone"
    assert datetime.fromisoformat(started["recorded_at"]).utcoffset() == timedelta(0)
    assert started["recorded_at"][19] == "."
    assert started["data"]["metadata"] == {"a": "b"}
    assert hello["data"]["item"] == {"type": "message", "role": "user", "content": "hello"}
    assert requested["data"]["parameters"] == {"temperature": 0.5}
    assert requested["data"]["input"][0]["item"]["content"] == "two plus two?"
    assert requested["data"]["shown"]["request_sha256"] == bytes(range(32)).hex()
    assert four["data"]["item_id"] == output[0].item_id
    assert completed["data"]["usage"]["output_tokens"] == 5
    assert retracted["data"] == {"item_id": input_items[0].item_id, "branch": 0, "depth": 2, "inherited": False}


async def test_a_description_event_has_only_the_changed_fields(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start()
    await write.execute(conversation_id, DescribeConversation(title="New"))
    await write.execute(conversation_id, DescribeConversation(instructions="Be brief."))
    await write.execute(conversation_id, DescribeConversation(title=None))
    written = WriteTitle(title="T", title_items=("msg_1",), read_version=4, model="m", usage=None, cost=5)
    await write.execute(conversation_id, written)

    described = (await page_of(api, conversation_id, after=1))["data"]
    of_model = {"title_items": ["msg_1"], "model": "m", "usage": None, "cost": 5}
    assert [event["data"] for event in described] == [
        {"title": "New", "title_by": "person"},
        {"instructions": "Be brief."},
        {"title": None},
        {"title": "T", "title_by": "model", **of_model},
    ]


async def test_pages_of_events_have_no_gaps(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start()
    await write.append(conversation_id, *map(str, range(149)))

    pages = [await page_of(api, conversation_id, limit=60)]
    while pages[-1]["has_more"]:
        pages.append(await page_of(api, conversation_id, limit=60, after=pages[-1]["last_id"]))

    assert [event["version"] for page in pages for event in page["data"]] == list(range(1, 151))
    assert [(page["first_id"], page["last_id"]) for page in pages] == [(1, 60), (61, 120), (121, 150)]
    assert [len(page["data"]) for page in [await page_of(api, conversation_id, limit=1000)]] == [150]
    empty = await page_of(api, conversation_id, after=150)
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await page_of(api, conversation_id, after=2**63 - 1))["has_more"] is False


async def test_a_page_names_its_first_event_although_rows_were_removed(
    api: httpx.AsyncClient, settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start("a", "b", "c")
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        await connection.execute(
            "DELETE FROM events WHERE originator_id = %s AND originator_version IN (1, 3)", (uuid_of(conversation_id),)
        )

    page = await page_of(api, conversation_id)

    assert [event["version"] for event in page["data"]] == [2, 4]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (2, 4, False)


async def test_a_page_of_large_events_ends_early_and_says_there_is_more(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start(*("x" * 1_000 for _ in range(5)))

    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).log
        head = await log.head(conversation_id)
        assert head is not None
        until = head.stream_version
        body, _ = await read_page(
            log, conversation_id, after=0, until=until, limit=100, sees_deleted=True, max_bytes=2_000
        )

    page = msgspec.json.decode(body)
    assert [event["version"] for event in page["data"]] == [1, 2]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (1, 2, True)


async def read_events(lines: AsyncIterator[str], count: int) -> list[dict[str, str]]:
    events: list[dict[str, str]] = []
    event: dict[str, str] = {}
    async with asyncio.timeout(10):
        async for line in lines:
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "data" in event:
                events.append(event)
                event = {}
            if len(events) == count:
                break
    return events


@asynccontextmanager
async def stream_of(url: str, conversation_id: str, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    headers = {"Accept": "text/event-stream", **headers}
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        client.stream("GET", f"/v1/conversations/{conversation_id}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.aiter_lines()


async def test_a_stream_sends_past_events_and_then_new_ones(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    async with served(settings) as url, stream_of(url, conversation_id) as lines:
        before = await read_events(lines, 2)
        await write.append(conversation_id, "b")
        [after] = await read_events(lines, 1)

    assert [event["id"] for event in (*before, after)] == ["1", "2", "3"]
    assert after["event"] == "item.appended"
    assert msgspec.json.decode(after["data"])["data"]["item"]["content"] == "b"


async def test_a_stream_resumes_after_the_last_event_id(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a", "b", "c")
    async with served(settings) as url:
        async with stream_of(url, conversation_id, **{"Last-Event-ID": "3"}) as lines:
            [event] = await read_events(lines, 1)
        async with httpx.AsyncClient(base_url=url) as client:
            path = f"/v1/conversations/{conversation_id}/events"
            head = await client.head(path, headers={"Accept": "text/event-stream"})

    assert event["id"] == "4"
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_a_stream_ends_after_the_conversations_deletion(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    async with served(settings) as url, stream_of(url, conversation_id) as lines:
        await read_events(lines, 1)
        await write.delete(conversation_id)
        async with asyncio.timeout(5):
            rest = [line async for line in lines if line]

    assert rest[:2] == ["id: 2", "event: conversation.deleted"]


async def test_a_stream_without_new_events_sends_comments(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    often = settings.model_copy(update={"comment_seconds": 0.2})
    async with served(often) as url, stream_of(url, conversation_id) as lines, asyncio.timeout(5):
        await read_events(lines, 1)
        assert [await anext(lines) for _ in range(4)] == [": still here", ""] * 2


async def test_a_disconnected_client_leaves_no_task_running(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    async with served(settings) as url:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with stream_of(url, conversation_id) as lines:
                await read_events(lines, 1)
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 1)


async def test_a_stream_survives_an_outage_of_postgres(
    settings: Settings, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    reached = settings.model_copy(update={"postgres_url": postgres.url})
    async with served(reached) as url, stream_of(url, conversation_id) as lines:
        await read_events(lines, 1)
        await postgres.cut()
        await write.append(conversation_id, "meanwhile")
        async with httpx.AsyncClient(base_url=url) as client:
            refused = await client.get(f"/v1/conversations/{conversation_id}/events")
        await postgres.restore()
        [event] = await read_events(lines, 1)

    assert refused.status_code == 503
    assert event["id"] == "2"
