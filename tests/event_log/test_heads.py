"""Where conversations end, looked up by many at a time over one connection."""

import asyncio

import psycopg
import pytest

from infrastructure.event_log import version_lookup
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import CONVERSATION, mint
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from infrastructure.stores.postgres_pipeline import ServerTimedOut
from tests.log import Log
from tests.projections.conftest import write
from tests.queries.store import Writer

__all__ = ["write"]


async def test_given_many_who_ask_at_once_when_some_go_away_then_each_other_is_told_the_end_of_its_own_conversation(
    write: Writer, reader: EventReader
) -> None:
    idents = [await write.start(*["x"] * number) for number in range(6)]
    never_started = mint(CONVERSATION)
    asked = [*idents, never_started] * 100
    asking = [asyncio.create_task(reader.head(ident)) for ident in asked]
    await asyncio.sleep(0)
    for task in asking[::5]:
        task.cancel()
    told = await asyncio.gather(*asking, return_exceptions=True)
    for index, (ident, head) in enumerate(zip(asked, told, strict=True)):
        if index % 5 == 0:
            assert isinstance(head, asyncio.CancelledError)
        elif ident == never_started:
            assert head is None
        else:
            assert isinstance(head, Head)
            assert (head.version, head.deleted) == (idents.index(ident) + 1, False)


async def test_given_an_idle_connection_that_was_cut_when_an_end_is_asked_for_then_it_is_told(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    ident = await write.start("x")
    before = await reader.head(ident)
    cut = Log(settings.postgres_url).rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND starts_with(query, 'PREPARE heads')"
    )
    assert cut == [(True,)]
    assert await reader.head(ident) == before


async def test_given_an_end_that_is_asked_for_when_the_pool_is_closed_then_who_waits_is_told_and_nothing_connects_again(
    write: Writer, settings: Settings
) -> None:
    ident = await write.start("x")
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool)
    assert await reader.head(ident)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
        await other.execute("LOCK TABLE events")
        asking = asyncio.create_task(reader.head(ident))
        async with asyncio.timeout(5):
            while await _waiting(settings) != 1:  # noqa: ASYNC110 - Postgres tells nobody
                await asyncio.sleep(0.01)
        await pool.close()
        async with asyncio.timeout(1):
            with pytest.raises(psycopg.OperationalError):
                await asking


async def test_given_a_postgres_that_keeps_silent_when_an_end_is_asked_for_then_who_asks_is_told_and_it_is_not_asked_again(
    write: Writer, reader: EventReader, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = await write.start("x")
    assert await reader.head(ident)
    monkeypatch.setattr(version_lookup, "ANSWER_SECONDS", 1.0)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
        await other.execute("LOCK TABLE events")
        async with asyncio.timeout(1.8):
            with pytest.raises(ServerTimedOut):
                await reader.head(ident)
    assert await reader.head(ident)


async def _waiting(settings: Settings) -> int:
    """The look-ups that wait for a lock."""
    rows = await asyncio.to_thread(
        Log(settings.postgres_url).rows,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(query, 'PREPARE heads') AND wait_event_type = 'Lock'",
    )
    return len(rows)


async def test_given_an_end_that_was_told_when_more_is_appended_then_the_new_end_is_told(
    write: Writer, reader: EventReader
) -> None:
    ident = await write.start()
    for version in range(2, 12):
        await write.append(ident, "x")
        head = await reader.head(ident)
        assert head is not None
        assert head.version == version
