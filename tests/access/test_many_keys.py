"""10,000 keys and two API processes.

Both processes refuse a revoked key within 5 s. Hardly any request with a key sends a statement to Postgres.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infrastructure.access.api_key import CreatedApiKey
from infrastructure.embedded.directory import free_port
from infrastructure.embedded.service import answers_http
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from scripts.http_connection import Connection
from tests.access.made_keys import execute, new_test_key, store_keys
from tests.access.statement_count import StatementCount
from tests.queries.proxy import Proxy
from tests.servers import ROOT, wait_until

KEYS = 10_000
REVOKED = 1_000
REVOKED_WITHIN_SECONDS = 5.0
CONNECTIONS = 8


async def statuses(url: str, keys: Iterable[CreatedApiKey]) -> list[int]:
    """One status for each key, in order. The route reads no database."""
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


@contextmanager
def two_processes(settings: Settings, postgres_url: str, directory: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        urls, running = [], []
        for name in ("one", "two"):
            variables = {
                "AUTH_MODE": "keys",
                "POSTGRES_URL": postgres_url,
                "MONGODB_URL": settings.mongodb_url,
                "REDIS_URL": settings.redis_url,
                "PORT": str(free_port()),
                "METRICS_PORT": "0",
                "PYTHONPATH": str(ROOT),
            }
            log = stack.enter_context((directory / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "queries.main"], env={**os.environ, **variables}, stdout=log, stderr=log
            )
            stack.callback(process.wait, 30)
            running.append(process)
            urls.append(f"http://127.0.0.1:{variables['PORT']}")
        # Callbacks run in reverse order. Both processes are terminated before the first wait.
        for process in running:
            stack.callback(process.terminate)
        for url in urls:
            wait_until(lambda url=url: answers_http(f"{url}/health/live", frozenset({200})), 60, url)  # type: ignore[misc]
        yield urls


async def check(settings: Settings, directory: Path, *, sample: int, report: Callable[[str], None] = print) -> None:
    keys = [new_test_key(subject=f"user-{number}") for number in range(KEYS)]
    await asyncio.to_thread(store_keys, settings.postgres_url, keys)
    count = StatementCount()
    postgres = Proxy(settings.postgres_url, count.watch)
    await postgres.restore()
    processes = ExitStack()
    try:
        # In a thread, because the proxy must run in the event loop.
        urls = await asyncio.to_thread(processes.enter_context, two_processes(settings, postgres.url, directory))
        await check_use(keys, urls, count, sample=sample, report=report)
        await check_revoked(settings, keys, urls, report)
    finally:
        await asyncio.to_thread(processes.close)
    await postgres.cut()


async def check_use(
    keys: Sequence[CreatedApiKey],
    urls: Sequence[str],
    count: StatementCount,
    *,
    sample: int,
    report: Callable[[str], None],
) -> None:
    used = random.Random(17).sample(keys, sample)

    async def statements(work: Awaitable[object]) -> tuple[float, float]:
        """Runs `work`. Returns (seconds, statements of both processes)."""
        before, started = len(count.statements), time.monotonic()
        await work
        return time.monotonic() - started, len(count.statements) - before

    idle_seconds, idle = await statements(asyncio.sleep(2))
    both = asyncio.gather(*(statuses(url, used) for url in urls))
    busy_seconds, busy = await statements(both)
    assert both.result() == [[200] * sample] * 2
    more = busy - idle * busy_seconds / idle_seconds
    report(f"{2 * sample} requests in {busy_seconds:.1f} s: {busy} statements; {idle} in {idle_seconds:.1f} s of rest")
    assert more < 0.02 * 2 * sample


async def check_revoked(
    settings: Settings, keys: Sequence[CreatedApiKey], urls: Sequence[str], report: Callable[[str], None]
) -> None:
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
    others = [key for key in keys[:: KEYS // 100] if key not in revoked]
    assert await asyncio.gather(*(statuses(url, others) for url in urls)) == [[200] * len(others)] * 2


async def test_revoked_keys_are_refused_within_5_s_and_statements_are_few(settings: Settings, tmp_path: Path) -> None:
    await check(settings, tmp_path, sample=1_000)


@pytest.mark.endless
async def test_revoked_keys_are_refused_within_5_s_when_all_10000_are_used(settings: Settings, tmp_path: Path) -> None:
    await check(settings, tmp_path, sample=KEYS)
