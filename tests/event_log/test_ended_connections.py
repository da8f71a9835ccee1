"""When Postgres ends its connections, our clients notice at once.

The tests run on uvloop, as in production.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
import pytest
import uvloop

from infrastructure.event_log.feed import AppendNotifications
from infrastructure.event_log.prefix_lookup import PrefixLookup
from infrastructure.event_log.version_lookup import VersionLookup
from infrastructure.ids import CONVERSATION, mint
from infrastructure.settings import Settings
from infrastructure.stores.postgres import Pool, make_pool
from infrastructure.stores.postgres_pipeline import OutcomeUnknown, PostgresPipeline
from tests.event_log.connection_ending_proxy import EndingProxy, ending_proxy, last_message

AT_ONCE_SECONDS = 2.0
TEXT = b"terminating connection due to immediate shutdown command"
LAST_MESSAGES = {
    "nothing": b"",
    "a notice": last_message(b"N", b"WARNING", TEXT),
    "an error": last_message(b"E", b"FATAL", TEXT),
    "a long notice": last_message(b"N", b"WARNING", b"x" * 30_000),
    "half a message": last_message(b"N", b"WARNING", TEXT)[:20],
}

every_end = pytest.mark.parametrize(
    ("last_bytes", "reset"),
    [
        pytest.param(last_bytes, reset, id=f"{name}, {'reset' if reset else 'closed'}")
        for name, last_bytes in LAST_MESSAGES.items()
        for reset in (True, False)
    ],
)
usual_end = pytest.mark.parametrize(
    ("last_bytes", "reset"), [(LAST_MESSAGES["a notice"], True)], ids=["a notice, reset"]
)
"""How Postgres ends its connections after SIGQUIT."""


@every_end
def test_calls_in_flight_have_an_unknown_outcome_when_their_connection_ends(
    settings: Settings, last_bytes: bytes, reset: bool
) -> None:
    async def scenario(proxy: EndingProxy) -> None:
        pipeline = PostgresPipeline(
            {"conninfo": proxy.url},
            name="sleeps",
            types=["float8"],
            statement="SELECT 1::bigint FROM pg_sleep($1)",
            transaction_timeout_seconds=60,
        )
        assert await pipeline.call([0.0], 10.0) == 1
        calls = [asyncio.create_task(pipeline.call([seconds], 30.0)) for seconds in (10.0, 0.0)]
        await wait_for_backend(settings, "PgSleep")
        proxy.end(last_bytes, reset=reset)
        async with asyncio.timeout(AT_ONCE_SECONDS):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, OutcomeUnknown]
            assert await pipeline.call([0.0], 10.0) == 1
        pipeline.close()

    run(settings, scenario)


@usual_end
def test_the_next_call_succeeds_after_the_server_ended_an_idle_connection(
    settings: Settings, last_bytes: bytes, reset: bool
) -> None:
    async def scenario(proxy: EndingProxy) -> None:
        pipeline = PostgresPipeline(
            {"conninfo": proxy.url},
            name="one",
            types=["bigint"],
            statement="SELECT $1",
            transaction_timeout_seconds=60,
        )
        assert await pipeline.call([1], 10.0) == 1
        proxy.end(last_bytes, reset=reset)
        await asyncio.sleep(0.1)  # meanwhile the event loop sees the end of the connection
        async with asyncio.timeout(AT_ONCE_SECONDS):
            assert await pipeline.call([2], 10.0) == 2
        pipeline.close()

    run(settings, scenario)


@usual_end
def test_look_ups_in_flight_are_repeated_when_their_connection_ends(
    settings: Settings, last_bytes: bytes, reset: bool
) -> None:
    async def scenario(proxy: EndingProxy) -> None:
        async with make_pool(proxy.url) as pool:
            versions, prefixes = VersionLookup(pool, timeout_seconds=10.0), PrefixLookup(pool, timeout_seconds=10.0)

            async def look_up() -> tuple[object, object]:
                head, found = await asyncio.gather(
                    versions.head(mint(CONVERSATION), "default"), prefixes.find([b"unknown"], "default")
                )
                return head, found

            assert await look_up() == (None, [])
            async with await psycopg.AsyncConnection.connect(settings.postgres_url) as other:
                await other.execute("LOCK TABLE events")
                looking_up = asyncio.create_task(look_up())
                await wait_for_backend(settings, "relation")
                proxy.end(last_bytes, reset=reset)
            async with asyncio.timeout(AT_ONCE_SECONDS):
                assert await looking_up == (None, [])

    run(settings, scenario)


@usual_end
def test_a_read_fails_at_once_when_its_connection_ends(settings: Settings, last_bytes: bytes, reset: bool) -> None:
    async def scenario(proxy: EndingProxy) -> None:
        async def read(pool: Pool, seconds: float) -> None:
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_sleep(%s)", [seconds])

        async with make_pool(proxy.url) as pool:
            reading = asyncio.create_task(read(pool, 10.0))
            await wait_for_backend(settings, "PgSleep")
            proxy.end(last_bytes, reset=reset)
            async with asyncio.timeout(AT_ONCE_SECONDS):
                with pytest.raises(psycopg.OperationalError):
                    await reading
                await read(pool, 0.0)

    run(settings, scenario)


@usual_end
def test_a_listener_listens_again_at_once_after_its_connection_ended(
    settings: Settings, last_bytes: bytes, reset: bool
) -> None:
    async def scenario(proxy: EndingProxy) -> None:
        notifications = AppendNotifications(proxy.url)
        listening = asyncio.create_task(notifications.listen())
        assert await notifications.wait(0, 10.0)
        connected = notifications.count
        proxy.end(last_bytes, reset=reset)
        started = time.monotonic()
        assert await notifications.wait(connected, 10.0)  # `listen` notifies when it listens again
        assert time.monotonic() - started < AT_ONCE_SECONDS
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    run(settings, scenario)


async def wait_for_backend(settings: Settings, wait_event: str) -> None:
    statement = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s"
    async with (
        asyncio.timeout(10),
        await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection,
    ):
        while (await (await connection.execute(statement, [wait_event])).fetchone()) is None:  # noqa: ASYNC110 - the server makes it true
            await asyncio.sleep(0.01)


def run(settings: Settings, scenario: Callable[[EndingProxy], Awaitable[None]]) -> None:
    async def with_proxy() -> None:
        with ending_proxy(settings.postgres_url) as proxy:
            await scenario(proxy)

    uvloop.run(with_proxy())
