"""Redis refuses commands for a while, under load. Nothing is parked, reads are right, and all snapshots soon are
current.

scripts/test tests/projections/test_redis_refuses_under_load.py -m endless -s

runs each fault for a minute. The log line `redis_refused` has the figures.
"""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from context.snapshot_store import read_snapshot
from context.snapshots import snapshot_keys
from infrastructure.settings import Settings
from projections.views.catalog import CONTEXT
from tests.projections.poison import nothing_parked
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer
from tests.redis_faults import Fault, out_of_memory, own_valkey, read_only_replica

log = structlog.get_logger(__name__)

CONVERSATIONS = 40
FIRST_ITEMS = 20
WRITERS = 4
READERS = 2
BACK_SECONDS = 10.0
"""Within this time after a fault, every snapshot is current again."""


@pytest.fixture
async def settings(settings: Settings) -> AsyncIterator[Settings]:
    async with own_valkey() as url:
        yield settings.model_copy(update={"redis_url": url})


class Load:
    """Appends messages, and reads contexts. A context must have the newest acknowledged message."""

    def __init__(self, write: Writer, api: httpx.AsyncClient, conversations: list[str]) -> None:
        self._write = write
        self._api = api
        self.conversations = conversations
        self.acknowledged = dict.fromkeys(conversations, FIRST_ITEMS)
        self._locks = {conversation: asyncio.Lock() for conversation in conversations}
        self._random = random.Random(1)
        self.recent_reads: list[float] = []

    async def append(self, conversation: str) -> None:
        async with self._locks[conversation]:
            await self._write.append(conversation, numbered(self.acknowledged[conversation]))
            self.acknowledged[conversation] += 1

    async def read(self, conversation: str) -> None:
        acknowledged, started = self.acknowledged[conversation], time.perf_counter()
        answer = await self._api.get(f"/v1/conversations/{conversation}/context?model=smol")
        self.recent_reads.append(time.perf_counter() - started)
        assert answer.status_code == 200, answer.text
        shown = [int(item["item"]["content"][0]["text"].split()[0]) for item in answer.json()["items"]]
        assert shown == list(range(shown[0], shown[0] + len(shown)))
        assert acknowledged - 1 <= shown[-1] <= self.acknowledged[conversation]

    async def snapshots_are_current(self, world: World) -> bool:
        """Whether snapshots have all messages that were acknowledged when this call began."""
        for conversation, acknowledged in list(self.acknowledged.items()):
            try:
                snapshot = await read_snapshot(world.redis, "default", conversation)
            except ResponseError:
                return False
            if snapshot is None or snapshot.version <= acknowledged:  # the conversation's start is a version too
                return False
        return True

    async def run(self, stop: asyncio.Event) -> None:
        async def repeat(writes: bool) -> None:
            while not stop.is_set():
                conversation = self._random.choice(self.conversations)
                await (self.append if writes else self.read)(conversation)
                await asyncio.sleep(0.005)

        await asyncio.gather(*(repeat(number < WRITERS) for number in range(WRITERS + READERS)))

    async def median(self, count: int) -> float:
        """The median time of the next `count` reads, in seconds."""
        self.recent_reads.clear()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(self.recent_reads) < count:  # noqa: ASYNC110  # other tasks read
                await asyncio.sleep(0.01)
        return statistics.median(self.recent_reads)


@asynccontextmanager
async def wrong_types(redis: Redis, load: Load) -> AsyncIterator[None]:
    """Until the end of the block, overwrites random keys of snapshots with a string or a list."""
    ended = asyncio.Event()

    async def spoil() -> None:
        while not ended.is_set():
            key = random.choice(snapshot_keys("default", random.choice(load.conversations)))
            async with redis.pipeline(transaction=True) as both:
                both.delete(key)
                both.set(key, "no hash") if random.random() < 0.5 else both.rpush(key, "no hash")
                await both.execute()
            await asyncio.sleep(0.005)

    spoiling = asyncio.create_task(spoil())
    try:
        yield
    finally:
        ended.set()  # not cancelled: the Redis client may swallow a cancellation
        await spoiling


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.endless)])
async def test_contexts_are_right_while_redis_refuses_commands_under_load(
    seconds: float, write: Writer, live: World
) -> None:
    texts = [numbered(number) for number in range(FIRST_ITEMS)]
    conversations = await asyncio.gather(*(write.start(*texts) for _ in range(CONVERSATIONS)))
    await live.until(live.caught_up)
    faults: list[Fault] = [out_of_memory, read_only_replica, lambda redis: wrong_types(redis, load)]
    async with open_api(live.settings) as api, Redis.from_url(live.settings.redis_url, decode_responses=True) as admin:
        load = Load(write, api, list(conversations))
        stop = asyncio.Event()
        running = asyncio.create_task(load.run(stop))
        try:
            await load.median(50)  # the first reads fill caches
            for name, fault in zip(("out of memory", "read-only", "wrong types"), faults, strict=True):
                await until_shown(live)
                usual = await load.median(100)
                async with fault(admin):
                    await asyncio.sleep(seconds)
                    during = await load.median(20)
                ended = time.monotonic()
                await until_shown(live)
                shown_after = time.monotonic() - ended
                await live.until(lambda: load.snapshots_are_current(live), seconds=BACK_SECONDS - shown_after)
                current_after = time.monotonic() - ended
                after = await load.median(100)
                log.info(
                    "redis_refused",
                    fault=name,
                    seconds=seconds,
                    milliseconds=[round(1000 * median, 1) for median in (usual, during, after)],
                    view_caught_up_after=round(shown_after, 1),
                    snapshots_current_after=round(current_after, 1),
                )
                assert await nothing_parked(live)
        finally:
            stop.set()
            await running
        for conversation in conversations:
            await load.append(conversation)
    await live.until(live.caught_up)
    assert await nothing_parked(live)
    assert await live.matches_log()
    log.info("appended", items=sum(load.acknowledged.values()))


def numbered(number: int) -> str:
    """A message that begins with its number. The message is so long that a full context has fewer items than a snapshot."""
    return f"{number} " + "and so on " * 20


async def until_shown(world: World) -> None:
    head = await world.reader.last_position()

    async def shows() -> bool:
        return (await world.statuses())[CONTEXT].position >= head

    await world.until(shows, seconds=BACK_SECONDS)
