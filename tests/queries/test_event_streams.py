"""Streams of a conversation's events: many at once, slow clients, and streams after the log has lost events."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import httpx
import psycopg
import pytest

from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.http.stream_pages import StreamPages
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from queries.event_stream import EventStreams
from queries.events import events_json
from queries.main import open_dependencies
from tests.fixtures.postgres_tools import dump_custom, restore_over
from tests.queries.conftest import served
from tests.queries.manual_projector import ManualProjector
from tests.queries.query_process import peak_memory, query_process, unread_streams
from tests.queries.writer import Writer

MEGABYTE = 1_000_000


def path_of(conversation_id: str) -> str:
    return f"/v1/conversations/{conversation_id}"


def large_text(seed: int, size: int = MEGABYTE) -> str:
    """A text that hardly compresses."""
    return random.Random(seed).randbytes(size // 2).hex()


async def ids_until(lines: AsyncIterator[str], last: int) -> list[int]:
    """Reads the ids of events until `last`, or until the stream's end."""
    ids: list[int] = []
    async for line in lines:
        if line.startswith("id: "):
            ids.append(int(line.removeprefix("id: ")))
        elif not line and ids and ids[-1] == last:
            return ids
    return ids


async def read_retried(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """Retries while the views are behind, as SDKs do. On a slow machine they may need more than the 2 s of one read."""
    while True:
        answer = await client.get(path)
        if answer.status_code != 503 or answer.json()["error"]["code"] != "read_models_behind":
            return answer
        await asyncio.sleep(float(answer.headers["retry-after"]))


async def test_sixty_streams_miss_no_event(settings: Settings, write: Writer, live: ManualProjector) -> None:
    conversation_ids = [await write.start("a") for _ in range(20)]
    last = 12
    limits = httpx.Limits(max_connections=None)
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client,
        asyncio.timeout(60),
    ):
        followers_ready = asyncio.Barrier(61)

        async def follow(conversation_id: str) -> list[int]:
            headers = {"Accept": "text/event-stream"}
            async with client.stream("GET", f"{path_of(conversation_id)}/events", headers=headers) as answer:
                assert answer.status_code == 200
                lines = answer.aiter_lines()
                first_ids = await ids_until(lines, 2)
                await followers_ready.wait()
                return first_ids + await ids_until(lines, last)

        followers = [asyncio.create_task(follow(conversation_ids[number % 20])) for number in range(60)]
        await followers_ready.wait()
        for _ in range(last - 2):
            await asyncio.gather(*(write.append(conversation_id, "b") for conversation_id in conversation_ids))
            paths = ["/v1/conversations", *map(path_of, conversation_ids)]
            answers = await asyncio.gather(*(read_retried(client, path) for path in paths))
            assert [answer.status_code for answer in answers] == [200] * len(answers)
            assert not any("x-consistency" in answer.headers for answer in answers)
        assert await asyncio.gather(*followers) == [list(range(1, last + 1))] * 60


async def test_streams_that_are_not_read_take_little_memory(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start()
    for number in range(12):
        await write.append(conversation_id, large_text(number))
    path = f"{path_of(conversation_id)}/events"
    async with query_process(settings) as (url, pid), asyncio.timeout(60):
        before = peak_memory(pid)
        with unread_streams(url, path, 20) as sockets:
            for connection in sockets:
                assert await asyncio.to_thread(connection.recv, 12) == b"HTTP/1.1 200"
                assert await asyncio.to_thread(connection.recv, 2000)
            async with (
                httpx.AsyncClient(base_url=url, timeout=20) as client,
                client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer,
            ):
                assert await ids_until(answer.aiter_lines(), 13) == list(range(1, 14))
            grown = peak_memory(pid) - before
    assert grown < 100 * MEGABYTE


async def test_streams_lose_no_byte_when_their_pages_are_dropped(settings: Settings, write: Writer) -> None:
    conversation_ids = [await write.start(large_text(number), "b", large_text(-number)) for number in (1, 2)]
    async with open_dependencies(settings, Event()) as dependencies, asyncio.timeout(20):
        log, shutdown = dependencies.log, Event()
        own_log = dependencies.of(ANONYMOUS).log
        watch = ConversationWatch(log.head_of_each, shutdown)

        async def read(pages: StreamPages) -> list[bytes]:
            """Reads both streams in turn. With little memory for pages, the streams evict each other's pages."""
            streams = [
                EventStreams(log, watch, pages, events_json, shutdown).follow(
                    own_log, conversation_id, await own_log.existing_head(conversation_id), 0
                )
                for conversation_id in conversation_ids
            ]
            bodies = [b"", b""]
            while min(map(len, bodies)) < 2 * MEGABYTE or not all(body.endswith(b"\n\n") for body in bodies):
                for number, stream in enumerate(streams):
                    bodies[number] += await anext(stream)
            return bodies

        bodies = await read(StreamPages())
        assert await read(StreamPages(max_kept_bytes=1)) == bodies
        await watch.close()

    for body in bodies:
        assert re.findall(rb"^id: (\d+)$", body, re.MULTILINE) == [b"1", b"2", b"3", b"4"]


async def test_a_stream_ends_when_the_log_has_lost_events_that_it_sent(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a", "lost")
    headers = {"Accept": "text/event-stream"}
    path = f"{path_of(conversation_id)}/events"
    async with served(settings) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        async with client.stream("GET", path, headers=headers) as answer:
            lines = answer.aiter_lines()
            assert await ids_until(lines, 3) == [1, 2, 3]
            with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
                connection.execute(
                    "DELETE FROM events WHERE originator_id = %s AND originator_version = 3",
                    (uuid_of(conversation_id),),
                )
            async with asyncio.timeout(5):
                assert [line async for line in lines if line] == []
        resumed = await client.get(path, headers={**headers, "Last-Event-ID": "3"})

    assert (resumed.status_code, resumed.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_a_stream_ends_when_the_log_has_lost_its_conversation(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("lost")
    path = f"{path_of(conversation_id)}/events"
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer,
        asyncio.timeout(5),
    ):
        lines = answer.aiter_lines()
        assert await ids_until(lines, 2) == [1, 2]
        with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
            connection.execute("DELETE FROM events WHERE originator_id = %s", (uuid_of(conversation_id),))
        assert [line async for line in lines if line] == []


async def test_a_stream_continues_after_rows_of_another_conversation_were_removed(
    settings: Settings, write: Writer
) -> None:
    conversation_id, other = await write.start("a"), await write.start("b")
    path = f"{path_of(conversation_id)}/events"
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer,
        asyncio.timeout(10),
    ):
        lines = answer.aiter_lines()
        assert await ids_until(lines, 2) == [1, 2]
        with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
            connection.execute("DELETE FROM events WHERE originator_id = %s", (uuid_of(other),))
        await write.append(conversation_id, "c")
        assert await ids_until(lines, 3) == [3]


async def test_a_stream_ends_when_other_events_replace_its_events(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a", "lost")
    path = f"{path_of(conversation_id)}/events"
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer,
        asyncio.timeout(10),
    ):
        lines = answer.aiter_lines()
        assert await ids_until(lines, 3) == [1, 2, 3]
        with psycopg.connect(settings.postgres_url) as connection:
            # After a restore, the same versions may have other events.
            stream = (uuid_of(conversation_id),)
            connection.execute(
                "CREATE TEMPORARY TABLE moved ON COMMIT DROP AS SELECT * FROM events WHERE originator_id = %s", stream
            )
            connection.execute("DELETE FROM events WHERE originator_id = %s", stream)
            connection.execute("UPDATE moved SET chain_hash = sha256(chain_hash)")
            connection.execute("INSERT INTO events SELECT * FROM moved")
            version_4 = "UPDATE moved SET originator_version = 4, notification_id = notification_id + 100 WHERE originator_version = 3"
            connection.execute(version_4)
            connection.execute("INSERT INTO events SELECT * FROM moved WHERE originator_version = 4")
        assert [line async for line in lines if line] == []


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "kept"])
async def test_after_a_restore_a_stream_continues_only_if_nothing_is_lost(
    settings: Settings, write: Writer, tmp_path: Path, is_lost: bool
) -> None:
    backup = tmp_path / "backup.dump"
    conversation_id = await write.start("a")
    if is_lost:
        await asyncio.to_thread(dump_custom, settings.postgres_url, backup)
    await write.append(conversation_id, "b")
    if not is_lost:
        await asyncio.to_thread(dump_custom, settings.postgres_url, backup)
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        client.stream("GET", f"{path_of(conversation_id)}/events", headers={"Accept": "text/event-stream"}) as answer,
    ):
        lines = answer.aiter_lines()
        assert await ids_until(lines, 3) == [1, 2, 3]
        await asyncio.to_thread(restore_over, settings.postgres_url, backup)
        await write.append(conversation_id, "c", "d")
        async with asyncio.timeout(15):
            assert await ids_until(lines, 5) == ([] if is_lost else [4, 5])
