"""Version lookups, which share one connection."""

import asyncio

import psycopg
import pytest

from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import CONVERSATION, mint
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from infrastructure.stores.postgres_pipeline import ServerTimedOut
from tests.log import Log
from tests.projections.conftest import write
from tests.queries.writer import Writer

__all__ = ["write"]


async def test_look_ups_find_the_right_heads_while_others_are_cancelled(write: Writer, reader: EventReader) -> None:
    conversation_ids = [await write.start(*["x"] * number) for number in range(6)]
    never_started = mint(CONVERSATION)
    requested = [*conversation_ids, never_started] * 100
    tasks = [asyncio.create_task(reader.head(conversation_id)) for conversation_id in requested]
    await asyncio.sleep(0)
    for task in tasks[::5]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for index, (conversation_id, result) in enumerate(zip(requested, results, strict=True)):
        if index % 5 == 0:
            assert isinstance(result, asyncio.CancelledError)
        elif conversation_id == never_started:
            assert result is None
        else:
            assert isinstance(result, Head)
            assert (result.version, result.deleted) == (conversation_ids.index(conversation_id) + 1, False)


async def test_a_head_is_found_after_an_idle_connection_was_cut(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    conversation_id = await write.start("x")
    before = await reader.head(conversation_id)
    cut = Log(settings.postgres_url).rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND starts_with(query, 'PREPARE version_lookup')"
    )
    assert cut == [(True,)]
    assert await reader.head(conversation_id) == before


async def test_a_waiting_look_up_fails_at_once_when_the_pool_is_closed(write: Writer, settings: Settings) -> None:
    conversation_id = await write.start("x")
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool)
    assert await reader.head(conversation_id)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
        await other.execute("LOCK TABLE events")
        task = asyncio.create_task(reader.head(conversation_id))
        async with asyncio.timeout(5):
            while await _blocked_lookups(settings) != 1:  # noqa: ASYNC110 - Postgres does not notify
                await asyncio.sleep(0.01)
        await pool.close()
        async with asyncio.timeout(1):
            with pytest.raises(psycopg.OperationalError):
                await task


async def test_a_look_up_is_not_repeated_after_a_timeout(write: Writer, settings: Settings) -> None:
    conversation_id = await write.start("x")
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool, lookup_timeout_seconds=1.0)
    assert await reader.head(conversation_id)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
        await other.execute("LOCK TABLE events")
        async with asyncio.timeout(1.8):
            with pytest.raises(ServerTimedOut):
                await reader.head(conversation_id)
    assert await reader.head(conversation_id)
    await pool.close()


async def _blocked_lookups(settings: Settings) -> int:
    rows = await asyncio.to_thread(
        Log(settings.postgres_url).rows,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(query, 'PREPARE version_lookup') AND wait_event_type = 'Lock'",
    )
    return len(rows)


async def test_after_an_append_the_new_head_is_found(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start()
    for version in range(2, 12):
        await write.append(conversation_id, "x")
        head = await reader.head(conversation_id)
        assert head is not None
        assert head.version == version
