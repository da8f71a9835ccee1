"""The counts that several processes share in Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from infrastructure.limits.concurrent import ConcurrentCount
from infrastructure.limits.requests import PORTIONS, UNUSED_SECONDS, RequestCount
from infrastructure.limits.shared_counts import ANSWER_SECONDS, WAIT_SECONDS, SharedCounts
from infrastructure.limits.tokens import TokenCount
from infrastructure.limits.window import WINDOW_SECONDS
from infrastructure.settings import Settings
from infrastructure.stores import redis
from tests.redis_faults import FAULTS, Fault, own_valkey
from tests.servers import wait_until_async

KEY = "limits:acme:requests:tenant"


@dataclass
class Process:
    """A process that counts against one limit."""

    shared: SharedCounts
    limit: int
    key: str = KEY
    requests: RequestCount = field(init=False)
    tokens: TokenCount = field(init=False)
    replies: ConcurrentCount = field(init=False)

    def __post_init__(self) -> None:
        self.requests = RequestCount(self.key, self.limit)
        self.tokens = TokenCount(f"{self.key}:tokens", self.limit)
        self.replies = ConcurrentCount(f"{self.key}:replies", self.limit)

    async def _may(self, count: RequestCount | TokenCount | ConcurrentCount) -> bool:
        return not await self.shared.used_up([count])

    async def request(self) -> bool:
        if allowed := await self._may(self.requests):
            if self.requests.take(time.monotonic()):
                self.shared.want(self.requests)
        return allowed

    async def has_tokens(self) -> bool:
        return await self._may(self.tokens)

    def spend(self, tokens: int) -> None:
        self.tokens.spend(time.monotonic(), tokens)
        self.shared.want(self.tokens)

    async def begin_reply(self) -> bool:
        if allowed := await self._may(self.replies):
            self.replies.take()
        return allowed

    def end_reply(self) -> None:
        self.replies.give_back()
        self.shared.want(self.replies)


@asynccontextmanager
async def processes(
    url: str, limit: int, number: int = 2, *, wait_seconds: float = 10.0, answer_seconds: float = 10.0
) -> AsyncIterator[list[Process]]:
    """Opens processes that share their counts. By default they wait up to 10 s for Redis, because a machine may be slow."""
    async with AsyncExitStack() as stack:
        opened: list[Process] = []
        for _ in range(number):
            client = await stack.enter_async_context(redis.connect(Settings(redis_url=url)))
            process = Process(SharedCounts(uuid4(), wait_seconds=wait_seconds, answer_seconds=answer_seconds), limit)
            await process.shared.open(client)
            stack.push_async_callback(process.shared.close, [])
            opened.append(process)
        yield opened


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis_url) as client:
        yield client


async def scripts_run_by(server: Redis) -> int:
    return int((await server.info("commandstats")).get("cmdstat_eval", {"calls": 0})["calls"])


async def send(several: Sequence[Process], requests: int) -> int:
    """Sends the requests to the processes in turn. Returns how many were allowed."""
    return sum(await asyncio.gather(*(several[n % len(several)].request() for n in range(requests))))


@pytest.mark.parametrize("limit", [0, 1, 7, 150, 1_000])
async def test_processes_together_never_allow_more_than_the_limit(settings: Settings, limit: int) -> None:
    async with processes(settings.redis_url, limit, number=3) as several:
        let_in = 0
        for _ in range(limit // 100 + 2):
            let_in += await send(several, 100)
            await asyncio.sleep(0.02)

        # A process may leave a part of its portion unused.
        assert limit * 0.97 - 1 <= let_in <= limit


async def test_most_requests_are_allowed_without_a_round_trip(settings: Settings, server: Redis) -> None:
    async with processes(settings.redis_url, 10_000) as several:
        before = await scripts_run_by(server)
        for _ in range(200):
            assert await send(several, 10) == 10
            await asyncio.sleep(0.001)

        assert await scripts_run_by(server) - before < 200  # for 2,000 requests


async def test_a_hundred_refused_requests_ask_redis_at_most_once(settings: Settings, server: Redis) -> None:
    async with processes(settings.redis_url, 5, number=1) as [process]:
        assert await send([process], 20) == 5
        before = await scripts_run_by(server)
        for _ in range(100):
            assert not await process.request()

        assert await scripts_run_by(server) - before <= 1


async def test_a_process_that_gets_no_requests_asks_to_give_its_portion_back(settings: Settings) -> None:
    async with processes(settings.redis_url, PORTIONS * 10) as [busy, idle]:
        for _ in range(20):
            await idle.request()
        await asyncio.sleep(0.1)
        now = time.monotonic()
        assert not idle.requests.tick(now)
        assert idle.requests.tick(now + UNUSED_SECONDS + 0.1)

        limit, taken, added, unused, _, _ = idle.requests.question(now + UNUSED_SECONDS + 0.1)
        assert (limit, taken, added) == (PORTIONS * 10, 0, 0)
        assert 0 < unused <= 10
        assert idle.requests.left(now, is_shared=False) == PORTIONS * 10 - 20
        assert busy.requests.is_idle(now)


async def test_a_process_that_stops_gives_back_what_it_has_not_used(settings: Settings) -> None:
    async with processes(settings.redis_url, 1_000) as [stopping, other]:
        for _ in range(60):
            assert await stopping.request()
        assert await stopping.begin_reply()
        stopping.replies.give_back()
        await stopping.shared.close([stopping.requests, stopping.replies])

        let_in = 0
        for _ in range(12):
            let_in += await send([other], 100)
        assert let_in == 940
        assert all(await asyncio.gather(*(other.begin_reply() for _ in range(1_000))))


async def test_a_count_in_redis_expires_after_a_minute(settings: Settings, server: Redis) -> None:
    async with processes(settings.redis_url, 10) as [process, _]:
        await send([process], 10)
        await asyncio.sleep(0.05)
        seconds, _ = await server.time()
        await server.delete(KEY)
        await server.hset(KEY, mapping={str(seconds - WINDOW_SECONDS): 4, str(seconds - WINDOW_SECONDS - 2): 6})
        await asyncio.sleep(0.6)  # until Redis is asked again

        assert await send([process], 20) in (6, 10)  # the older use (6) has expired
        assert 0 < await server.ttl(KEY) <= WINDOW_SECONDS + 1


async def test_a_redis_key_that_holds_another_type_is_replaced(settings: Settings, server: Redis) -> None:
    await server.set(KEY, "text")
    await server.rpush(f"{KEY}:replies", "a list")
    async with processes(settings.redis_url, 3) as several:
        assert await send(several, 10) == 3
        assert await several[0].begin_reply()
        assert all(process.shared.is_available for process in several)


async def test_tokens_above_the_limit_count_longer_than_a_minute(
    settings: Settings,
) -> None:
    async with processes(settings.redis_url, 1_000) as [one, other]:
        assert await one.has_tokens()
        assert await other.has_tokens()
        one.spend(2_500)
        assert not await one.has_tokens()
        await asyncio.sleep(1.1)  # the last answer of Redis counts for a second

        assert not await other.has_tokens()
        now = time.monotonic()
        assert other.tokens.left(now, is_shared=True) == 0
        # A minute, and 90 s for the 1,500 tokens above the limit.
        assert 140 <= other.tokens.free_in(now, is_shared=True) <= 152


async def test_the_number_of_replies_at_once_is_exact(
    settings: Settings,
) -> None:
    async with processes(settings.redis_url, 5) as [one, other]:
        started = await asyncio.gather(*(process.begin_reply() for process in (one, other) * 10))
        assert sum(started) == 5

        (one if any(started[::2]) else other).end_reply()
        await asyncio.sleep(0.3)
        assert sum(await asyncio.gather(*(process.begin_reply() for process in (one, other) * 10))) == 1


async def test_running_replies_are_counted_again_soon_after_redis_lost_all_data(
    settings: Settings, server: Redis
) -> None:
    async with processes(settings.redis_url, 3) as [one, other]:
        for _ in range(3):
            assert await one.begin_reply()
        await server.flushdb()
        assert one.replies.tick(time.monotonic() + 1.0)
        one.shared.want(one.replies)
        await asyncio.sleep(0.3)

        assert not await other.begin_reply()


@asynccontextmanager
async def frozen(client: Redis) -> AsyncIterator[None]:
    await client.client_pause(2_000)
    yield


@pytest.mark.parametrize("fault", [*FAULTS, pytest.param(frozen, id="frozen")])
async def test_each_process_counts_by_itself_while_redis_does_not_answer(fault: Fault) -> None:
    async with (
        own_valkey() as url,
        Redis.from_url(url) as client,
        processes(url, 10, wait_seconds=WAIT_SECONDS, answer_seconds=ANSWER_SECONDS) as several,
    ):
        assert await send(several, 2) == 2
        async with fault(client):
            await asyncio.sleep(0)
            started = time.monotonic()
            let_in = await send(several, 100)
            assert time.monotonic() - started < 0.5
            assert 8 <= let_in <= 20  # one process alone has 9 left, both together have 8
            assert not any(process.requests.has(time.monotonic(), is_shared=False) for process in several)
            assert await several[0].begin_reply()
            assert await several[0].has_tokens()
        await wait_until_async(lambda: all(process.shared.is_available for process in several), 5, "Redis to be used")
