"""Postgres is killed under load. Appends stop for at most one second longer than Postgres takes to start.

    scripts/test tests/end_to_end/test_killed_postgres.py                  a few kills, as in CI
    scripts/test tests/end_to_end/test_killed_postgres.py -m endless       a hundred kills

SIGQUIT ends Postgres at once, without finishing transactions.
"""

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import psycopg
import pytest
from msgspec import Struct

from domain.events import ItemAppended
from domain.items import from_stored
from scripts.http_connection import Answer, Connection
from tests.log import Log
from tests.system import System

UP = ("--no-model", "--apis", "2")
OWN_STORES = True
APIS = ("API_1_URL", "API_2_URL")
WRITERS = 8
APPENDS_BETWEEN_KILLS = 100
MAX_EXTRA_SECONDS = 1.0

REQUEST_TIMEOUT_SECONDS = 40.0
START_TIMEOUT_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Finished(Struct, frozen=True):
    """An acknowledged append, with monotonic times. `text` is unique."""

    text: str
    started: float
    ended: float


class Writer:
    """Appends to its own conversation, one request after the other."""

    def __init__(self, name: str, base_url: str) -> None:
        self.name = name
        self.finished: list[Finished] = []
        self.conversation_id = ""
        self._base_url = base_url
        self._connection: Connection | None = None

    async def append_until(self, stop: asyncio.Event) -> None:
        self.conversation_id = (await self._acknowledged("/v1/conversations", {})).json()["id"]
        while not stop.is_set():
            text = f"{self.name}-{len(self.finished)}"
            started = time.monotonic()
            body = {"items": [{"type": "message", "role": "user", "content": text}]}
            await self._acknowledged(f"/v1/conversations/{self.conversation_id}/items", body)
            self.finished.append(Finished(text, started, time.monotonic()))
        if self._connection is not None:
            self._connection.close()

    async def _acknowledged(self, path: str, body: object) -> Answer:
        key = {"idempotency-key": uuid.uuid4().hex}
        while True:
            if self._connection is None or not self._connection.is_open:
                self._connection = await Connection.open(self._base_url)
            content = msgspec.json.encode(body)
            answer = await self._connection.request("POST", path, content, key, seconds=REQUEST_TIMEOUT_SECONDS)
            if answer.status == 200:
                return answer
            assert answer.status == 503, answer.body
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kills", [pytest.param(2, id="2"), pytest.param(100, id="100", marks=pytest.mark.endless)])
async def test_appends_continue_within_a_second_after_a_killed_postgres_has_started(
    running: System, kills: int
) -> None:
    writers = [Writer(f"writer-{n}", running.env[APIS[n % len(APIS)]]) for n in range(WRITERS)]
    extra_seconds: list[float] = []
    async with load(writers):
        for number in range(1, kills + 1):
            await wait_for_appends(writers, APPENDS_BETWEEN_KILLS)
            killed, started = await kill_postgres(running)
            await wait_for_appends(writers, 1, since=started)
            slowest = max(append.ended - max(append.started, killed) for append in appends_since(writers, killed))
            extra_seconds.append(slowest - (started - killed))
            logger.info("kill %d: started after %.2f s, slowest append %.2f s", number, started - killed, slowest)
    report = f"longer than Postgres's own start, in seconds: {sorted(round(seconds, 2) for seconds in extra_seconds)}"
    logger.info(report)
    assert_log_has_each_append_once(running, writers)
    assert max(extra_seconds) <= MAX_EXTRA_SECONDS, report


@asynccontextmanager
async def load(writers: list[Writer]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.append_until(stop))
        yield
        stop.set()


def appends_since(writers: list[Writer], moment: float) -> list[Finished]:
    return [append for writer in writers for append in writer.finished if append.ended > moment]


async def wait_for_appends(writers: list[Writer], count: int, *, since: float | None = None) -> None:
    """Waits until each writer has finished `count` appends that started after `since` (None: after this call)."""
    start = time.monotonic() if since is None else since

    def finished(writer: Writer) -> bool:
        last = writer.finished[-count:]
        return len(last) == count and last[0].started > start

    async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
        while not all(map(finished, writers)):  # noqa: ASYNC110 - the writers make it true
            await asyncio.sleep(0.01)


async def kill_postgres(running: System) -> tuple[float, float]:
    """Returns (when SIGQUIT was sent, when Postgres answered again), in monotonic seconds."""
    url = running.env["POSTGRES_URL"]
    before = await start_time(url)
    killed = time.monotonic()
    running.kill("postgres", signal.SIGQUIT)
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while True:
            with suppress(psycopg.OperationalError):
                if await start_time(url) != before:
                    return killed, time.monotonic()
            await asyncio.sleep(0.005)


async def start_time(url: str) -> object:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return await (await connection.execute("SELECT pg_postmaster_start_time()")).fetchone()


def assert_log_has_each_append_once(running: System, writers: list[Writer]) -> None:
    log = Log(running.env["POSTGRES_URL"])
    for writer in writers:
        stored = [
            from_stored(event.item)["content"]
            for event in log.events(writer.conversation_id)
            if isinstance(event, ItemAppended)
        ]
        assert stored == [append.text for append in writer.finished]
