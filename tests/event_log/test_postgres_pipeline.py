"""PostgresPipeline sends calls over one connection, each in its own transaction."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from infrastructure.settings import Settings
from infrastructure.stores.postgres_pipeline import NotSent, OutcomeUnknown, PostgresPipeline, ServerTimedOut

# n > 0 returns 100 / n, 0 is an error, and -n takes n seconds.
STATEMENT = """
    SELECT CASE WHEN $1 >= 0 THEN 100 / $1 ELSE (SELECT 0 FROM pg_sleep(-$1)) + nextval('calls') END::bigint
"""


def make(settings: Settings, name: str, types: list[str], statement: str) -> PostgresPipeline:
    return PostgresPipeline(
        {"conninfo": settings.postgres_url},
        name=name,
        types=types,
        statement=statement,
        transaction_timeout_seconds=60,
    )


@pytest.fixture
async def pipeline(settings: Settings) -> AsyncIterator[PostgresPipeline]:
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("DROP SEQUENCE IF EXISTS calls")
        await connection.execute("CREATE SEQUENCE calls")
        pipeline = make(settings, "calls", ["bigint"], STATEMENT)
        await pipeline.open()
        yield pipeline
        pipeline.close()
        await connection.execute("DROP SEQUENCE calls")


async def call(pipeline: PostgresPipeline, number: int, timeout_seconds: float = 10.0) -> int:
    value: int = await pipeline.call([number], timeout_seconds)
    return value


async def outcomes(*calls: Any) -> list[Any]:
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(result) if isinstance(result, Exception) else result for result in results]


async def test_concurrent_calls_get_their_own_results(pipeline: PostgresPipeline) -> None:
    assert await outcomes(*(call(pipeline, number) for number in (1, 2, 4, 5))) == [100, 50, 25, 20]


async def test_a_call_that_fails_does_not_stop_other_calls(pipeline: PostgresPipeline) -> None:
    division = psycopg.errors.DivisionByZero
    assert await outcomes(*(call(pipeline, number) for number in (1, 0, 2, 0, 4))) == [100, division, 50, division, 25]


async def test_a_call_that_fails_at_its_commit_does_not_stop_later_calls(
    settings: Settings,
) -> None:
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE once (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        pipeline = make(settings, "once", ["bigint"], "INSERT INTO once VALUES ($1) RETURNING number")
        violation = psycopg.errors.UniqueViolation
        assert await outcomes(*(call(pipeline, number) for number in (1, 1, 2, 2, 3))) == [
            1,
            violation,
            2,
            violation,
            3,
        ]
        pipeline.close()
        await connection.execute("DROP TABLE once")


async def test_a_result_that_arrives_while_libpq_sends_is_not_lost(
    settings: Settings,
) -> None:
    statement = "SELECT length($2)::bigint FROM pg_sleep($1 / 1000.0)"
    pipeline = make(settings, "slept", ["bigint", "bytea"], statement)
    await pipeline.open()
    first = asyncio.create_task(pipeline.call([1, b"x"], 10.0))
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - the result arrives in the socket while the event loop cannot read it
    with pytest.raises(ServerTimedOut):
        await pipeline.call([5000, bytes(9_000_000)], 1.0)
    assert await first == 1


async def test_results_of_large_and_small_calls_keep_their_order(settings: Settings) -> None:
    pipeline = make(settings, "sizes", ["bytea"], "SELECT length($1)::bigint")
    sizes = [1, 9_000_000, 2, 9_000_001, 3]
    answers = await asyncio.gather(*(pipeline.call([bytes(size)], 30.0) for size in sizes))
    pipeline.close()
    assert answers == sizes


async def test_calls_in_flight_on_a_cut_connection_have_an_unknown_outcome(
    pipeline: PostgresPipeline, settings: Settings
) -> None:
    calls = [asyncio.create_task(call(pipeline, number)) for number in (-20, 1, 2)]
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    async with (
        asyncio.timeout(10),
        await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as other,
    ):
        while (await (await other.execute(terminate)).fetchone()) is None:  # noqa: ASYNC110 - the server makes it true
            await asyncio.sleep(0.01)
    assert await outcomes(*calls) == [OutcomeUnknown] * 3
    assert await outcomes(call(pipeline, 1), call(pipeline, 2)) == [100, 50]


async def test_a_call_that_times_out_ends_the_call_behind_it(
    pipeline: PostgresPipeline,
) -> None:
    assert await outcomes(call(pipeline, -20, 0.2), call(pipeline, 1)) == [ServerTimedOut, ServerTimedOut]
    assert await call(pipeline, 2) == 50


async def test_a_call_does_not_get_the_result_of_a_cancelled_call(pipeline: PostgresPipeline) -> None:
    first, second = (asyncio.create_task(call(pipeline, number)) for number in (-1, 1))
    await asyncio.sleep(0)
    first.cancel()
    assert await outcomes(second, call(pipeline, 2)) == [OutcomeUnknown, 50]


async def test_the_first_call_connects_and_later_calls_share_the_connection(
    settings: Settings,
) -> None:
    pipeline = make(settings, "pids", ["bigint"], "SELECT $1 * 0 + pg_backend_pid()::bigint")
    pids = {
        await pipeline.call([0], 10.0),
        *await asyncio.gather(*(pipeline.call([0], 10.0) for _ in range(5))),
    }
    pipeline.close()
    assert len(pids) == 1


async def test_a_call_with_a_value_too_large_for_its_type_fails_alone(
    pipeline: PostgresPipeline,
) -> None:
    assert await outcomes(call(pipeline, 2**63), call(pipeline, 2)) == [psycopg.DataError, 50]


async def test_a_pipeline_that_ends_while_a_call_connects_leaves_no_connection_open(
    settings: Settings,
) -> None:
    pipeline = make(settings, "ended", ["bigint"], "SELECT $1")
    connecting = asyncio.create_task(call(pipeline, 1))
    await asyncio.sleep(0)  # the call has begun to connect
    pipeline.end()
    with pytest.raises(NotSent, match="closed"):
        await connecting
    gc.collect()  # a connection left open would be a ResourceWarning now
