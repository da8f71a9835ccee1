"""A line by itself: calls that follow each other over one connection, each a transaction of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from infrastructure.settings import Settings
from infrastructure.stores.postgres_pipeline import OutcomeUnknown, PostgresPipeline, ServerTimedOut

# One number in, one out; 0 is an error, a negative one takes as many seconds.
STATEMENT = """
    SELECT CASE WHEN $1 >= 0 THEN 100 / $1 ELSE (SELECT 0 FROM pg_sleep(-$1)) + nextval('calls') END::bigint
"""


@pytest.fixture
async def line(settings: Settings) -> AsyncIterator[PostgresPipeline]:
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("DROP SEQUENCE IF EXISTS calls")
        await connection.execute("CREATE SEQUENCE calls")
        line = PostgresPipeline({"conninfo": settings.postgres_url}, "calls", ["bigint"], STATEMENT, 60)
        await line.open()
        yield line
        line.close()
        await connection.execute("DROP SEQUENCE calls")


async def call(line: PostgresPipeline, number: int, seconds: float = 10.0) -> int:
    value = await line.call([number.to_bytes(8, signed=True)], seconds)
    assert value is not None
    return int.from_bytes(value, signed=True)


async def said(*calls: Any) -> list[Any]:
    return [
        type(it) if isinstance(it, Exception) else it for it in await asyncio.gather(*calls, return_exceptions=True)
    ]


async def test_calls_at_once_are_answered_each_with_its_own(line: PostgresPipeline) -> None:
    assert await said(*(call(line, number) for number in (1, 2, 4, 5))) == [100, 50, 25, 20]


async def test_the_error_of_one_call_is_nobody_elses(line: PostgresPipeline) -> None:
    divided = psycopg.errors.DivisionByZero
    assert await said(*(call(line, number) for number in (1, 0, 2, 0, 4))) == [100, divided, 50, divided, 25]


async def test_what_fails_at_its_commit_is_not_told_as_done_and_those_behind_it_are_done(settings: Settings) -> None:
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE once (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        line = PostgresPipeline(
            {"conninfo": settings.postgres_url},
            "once",
            ["bigint"],
            "INSERT INTO once VALUES ($1) RETURNING number",
            60,
        )
        taken = psycopg.errors.UniqueViolation
        assert await said(*(call(line, number) for number in (1, 1, 2, 2, 3))) == [1, taken, 2, taken, 3]
        line.close()
        await connection.execute("DROP TABLE once")


async def test_an_answer_that_is_fetched_while_the_next_call_is_sent_is_told_at_once(settings: Settings) -> None:
    statement = "SELECT length($2)::bigint FROM pg_sleep($1 / 1000.0)"
    line = PostgresPipeline({"conninfo": settings.postgres_url}, "slept", ["bigint", "bytea"], statement, 60)
    await line.open()
    first = asyncio.create_task(line.call([(1).to_bytes(8), b"x"], 10.0))
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - the answer is in the socket, and the event loop has not seen it
    with pytest.raises(ServerTimedOut):
        await line.call([(5000).to_bytes(8), bytes(9_000_000)], 1.0)
    assert await first == (1).to_bytes(8)


async def test_large_calls_and_small_ones_keep_their_order(settings: Settings) -> None:
    line = PostgresPipeline({"conninfo": settings.postgres_url}, "sizes", ["bytea"], "SELECT length($1)::bigint", 60)
    sizes = [1, 9_000_000, 2, 9_000_001, 3]
    answers = await asyncio.gather(*(line.call([bytes(size)], 30.0) for size in sizes))
    line.close()
    assert [int.from_bytes(answer or b"") for answer in answers] == sizes


async def test_a_cut_connection_leaves_all_that_were_under_way_unanswered_and_the_next_one_connects(
    line: PostgresPipeline, settings: Settings
) -> None:
    calls = [asyncio.create_task(call(line, number)) for number in (-20, 1, 2)]
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    async with (
        asyncio.timeout(10),
        await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as other,
    ):
        while (await (await other.execute(ended)).fetchone()) is None:  # noqa: ASYNC110 - the server makes it true
            await asyncio.sleep(0.01)
    assert await said(*calls) == [OutcomeUnknown] * 3
    assert await said(call(line, 1), call(line, 2)) == [100, 50]


async def test_a_server_that_keeps_silent_takes_those_behind_with_it(line: PostgresPipeline) -> None:
    assert await said(call(line, -20, 0.2), call(line, 1)) == [ServerTimedOut, ServerTimedOut]
    assert await call(line, 2) == 50


async def test_a_call_that_is_cancelled_is_not_taken_for_the_next(line: PostgresPipeline) -> None:
    first, second = (asyncio.create_task(call(line, number)) for number in (-1, 1))
    await asyncio.sleep(0)
    first.cancel()
    assert await said(second, call(line, 2)) == [OutcomeUnknown, 50]


async def test_those_who_come_while_it_connects_share_the_connection(settings: Settings) -> None:
    line = PostgresPipeline(
        {"conninfo": settings.postgres_url}, "pids", ["bigint"], "SELECT $1 * 0 + pg_backend_pid()::bigint", 60
    )
    pids = {await line.call([bytes(8)], 10.0), *await asyncio.gather(*(line.call([bytes(8)], 10.0) for _ in range(5)))}
    line.close()
    assert len(pids) == 1
