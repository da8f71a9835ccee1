"""10,000 keys and two api processes: a revoked key is refused within 5 s by both, and a key that is used costs Postgres nothing."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from infrastructure.access.api_key import CreatedApiKey
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from scripts.http_connection import Connection
from tests.access.made_keys import execute, made_key, store_keys
from tests.access.statement_count import StatementCount
from tests.queries.proxy import Proxy
from tests.system import System

KEYS = 10_000
REVOKED = 1_000
REVOKED_WITHIN_SECONDS = 5.0
CONNECTIONS = 8


async def statuses(url: str, keys: Iterable[CreatedApiKey]) -> list[int]:
    """The status of a request with each key, in this order. The route itself uses no store."""
    waiting = [*enumerate(keys)][::-1]
    answers = [0] * len(waiting)

    async def send() -> None:
        connection = await Connection.open(url)
        while waiting:
            number, key = waiting.pop()
            headers = {"authorization": f"Bearer {key.secret}"}
            answers[number] = (await connection.request("GET", "/v1/models", headers=headers)).status
        connection.close()

    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    return answers


async def check(
    settings: Settings, system: Callable[..., System], *, sample: int, report: Callable[[str], None] = print
) -> None:
    keys = [made_key(subject=f"user-{number}") for number in range(KEYS)]
    await asyncio.to_thread(store_keys, settings.postgres_url, keys)
    count = StatementCount()
    postgres = Proxy(settings.postgres_url, count.watch)
    await postgres.restore()
    environment = {
        "AUTH_MODE": "keys",
        "POSTGRES_URL": postgres.url,
        "MONGODB_URL": settings.mongodb_url,
        "REDIS_URL": settings.redis_url,
    }
    running = await asyncio.to_thread(system, "--no-model", "--apis", "2", environment=environment)
    urls = [running.env["API_1_URL"], running.env["API_2_URL"]]
    used = random.Random(17).sample(keys, sample)

    async def statements(work: Awaitable[object]) -> tuple[float, float]:
        """How long it took, and the statements of all processes meanwhile."""
        before, started = len(count.statements), time.monotonic()
        await work
        return time.monotonic() - started, len(count.statements) - before

    idle_seconds, idle = await statements(asyncio.sleep(2))
    both = asyncio.gather(*(statuses(url, used) for url in urls))
    busy_seconds, busy = await statements(both)
    assert both.result() == [[200] * sample] * 2
    more = busy - idle * busy_seconds / idle_seconds
    report(f"{2 * sample} requests in {busy_seconds:.1f} s: {busy} statements; {idle} in {idle_seconds:.1f} s without")
    assert more < 0.02 * 2 * sample

    revoked = random.Random(18).sample(keys, REVOKED)
    probes = revoked[:: REVOKED // 20]
    ids = [uuid_of(key.id) for key in revoked]
    await asyncio.to_thread(
        execute, settings.postgres_url, "UPDATE api_keys SET revoked_at = now() WHERE id = ANY(%s)", ids
    )
    started = time.monotonic()

    async def refused_after(url: str) -> float:
        while await statuses(url, probes) != [401] * len(probes):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return time.monotonic() - started

    after = await asyncio.gather(*map(refused_after, urls))
    report(f"{REVOKED} of {KEYS} keys revoked: refused after {max(after):.2f} s by both processes")
    assert max(after) < REVOKED_WITHIN_SECONDS
    left = {key.id for key in revoked}
    expected = [401 if key.id in left else 200 for key in used]
    assert await asyncio.gather(*(statuses(url, used) for url in urls)) == [expected] * 2
    await asyncio.to_thread(running.stop)
    await postgres.cut()


async def test_revoked_keys_are_refused_within_5_s_and_used_ones_cost_no_statement(
    settings: Settings, system: Callable[..., System]
) -> None:
    await check(settings, system, sample=1_000)


@pytest.mark.endless
async def test_the_same_with_every_key(settings: Settings, system: Callable[..., System]) -> None:
    await check(settings, system, sample=KEYS)
