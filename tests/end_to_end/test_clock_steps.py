"""Postgres's clock is changed, while Postgres runs and while it restarts.

No reply of a living process ends, and reads wait only for a few seconds.

    scripts/test tests/end_to_end/test_clock_steps.py               a few steps, as in CI
    scripts/test tests/end_to_end/test_clock_steps.py -m endless    every step: ±1 s, ±60 s, ±2 h, ±1 day, running and across a restart

Two api processes and two projectors run. Each api runs a reply.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import httpx
import pytest

from domain.events import REPLY_ENDS
from projections.leases import ALIVE_SECONDS as PROJECTOR_ALIVE_SECONDS
from replies.leases import ALIVE_SECONDS as API_ALIVE_SECONDS
from tests.end_to_end.postgres_clock import LIBFAKETIME, PostgresClock, postgres_with_clock
from tests.end_to_end.reply_streams import endless_answer
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async
from tests.system import System

pytestmark = pytest.mark.skipif(
    LIBFAKETIME is None,
    reason="no libfaketime: set LIBFAKETIME to its path (.ci/run takes it from a Debian package, if apt can download that)",
)

SLOW_MACHINE_SECONDS = 4.0
"""On a busy machine, a read may take this much longer than PROJECTOR_ALIVE_SECONDS."""

RECONNECT_SECONDS = 10.0
"""After Postgres was killed, appends and views may stop for this long."""

logger = logging.getLogger(__name__)

HOUR, DAY = 3600, 24 * 3600
STEPS = [sign * size for size in (1, 60, 2 * HOUR, DAY) for sign in (1, -1)]


def is_verified(answer: httpx.Response) -> bool:
    """Whether the answer is known to be current."""
    return answer.status_code == 200 and "x-consistency" not in answer.headers


class Store:
    def __init__(self, system: System, clock: PostgresClock, http: httpx.AsyncClient) -> None:
        self.system = system
        self.clock = clock
        self.log = Log(clock.url)
        self.urls = [system.env["API_1_URL"], system.env["API_2_URL"]]
        self._http = http

    async def post(self, url: str, body: object) -> dict[str, object]:
        """Repeats the request while the answer is a 503."""
        async with asyncio.timeout(30):
            while True:
                answer = await self._http.post(url, json=body)
                if answer.status_code != 503:
                    break
                await asyncio.sleep(0.05)
        assert answer.status_code == 200, answer.text
        created: dict[str, object] = answer.json()
        return created

    async def start_replies(self) -> list[str]:
        conversations = [str((await self.post(f"{url}/v1/conversations", {}))["id"]) for url in self.urls]
        for url, conversation in zip(self.urls, conversations, strict=True):
            await self.post(f"{url}/v1/responses", {"input": "go", "conversation": conversation, "background": True})
        return conversations

    def has_ended(self, conversation: str) -> bool:
        return any(isinstance(event, REPLY_ENDS) for event in self.log.events(conversation))

    async def longest_delay(self, seconds: float) -> float:
        """Returns the longest time from an append to its read, in seconds."""
        longest, number, started = 0.0, 0, time.monotonic()
        path = f"/v1/conversations/{(await self.post(f'{self.urls[0]}/v1/conversations', {}))['id']}/items"
        while time.monotonic() - started < seconds:
            number += 1
            writer, reader = self.urls[number % 2], self.urls[(number + 1) % 2]
            message = {"type": "message", "role": "user", "content": str(number)}
            await self.post(writer + path, {"items": [message]})
            appended_at = time.monotonic()
            while not is_verified(answer := await self._http.get(reader + path)):
                assert time.monotonic() - appended_at < 30, answer.text
            assert answer.json()["data"][0]["content"][0]["text"] == str(number)
            longest = max(longest, time.monotonic() - appended_at)
            await asyncio.sleep(0.05)
        return longest


@pytest.fixture
async def store(
    system: Callable[..., System], provider: ScriptedProvider, http: httpx.AsyncClient
) -> AsyncIterator[Store]:
    provider.script = endless_answer
    async with postgres_with_clock() as clock:
        environment = {"POSTGRES_URL": clock.url, "OPENAI_BASE_URL": provider.url}
        arguments = ("--apis", "2", "--projectors", "2")
        running = await asyncio.to_thread(partial(system, *arguments, environment=environment))
        yield Store(running, clock, http)
        await asyncio.to_thread(running.stop)


async def test_replies_of_living_processes_survive_a_clock_step_of_postgres(
    store: Store,
) -> None:
    conversations = await store.start_replies()
    await store.clock.step(2 * HOUR)
    assert await store.longest_delay(3) < PROJECTOR_ALIVE_SECONDS + SLOW_MACHINE_SECONDS
    await store.clock.restart(0)
    assert await store.longest_delay(API_ALIVE_SECONDS + 1) < RECONNECT_SECONDS
    assert not any(map(store.has_ended, conversations))

    # The processes renewed their leases while the clock was two hours ahead. New processes must still take over soon.
    for name in (
        "projector",
        "api",
    ):
        store.system.wait_restarted(name, store.system.kill(name))
    dead, alive = conversations
    delay = asyncio.create_task(store.longest_delay(1))
    await wait_until_async(
        lambda: store.has_ended(dead), API_ALIVE_SECONDS + RECONNECT_SECONDS, "the end of the reply of the killed api"
    )
    assert await delay < PROJECTOR_ALIVE_SECONDS + RECONNECT_SECONDS
    assert not store.has_ended(alive)


@pytest.mark.endless
async def test_a_clock_step_ends_no_reply_and_delays_reads_only_briefly(
    store: Store,
) -> None:
    for seconds in STEPS:
        for change, limit in (
            (store.clock.step, PROJECTOR_ALIVE_SECONDS + SLOW_MACHINE_SECONDS),
            (store.clock.restart, RECONNECT_SECONDS),
        ):
            for offset in (seconds, 0):  # change the clock, then change it back
                conversations = await store.start_replies()
                await change(offset)
                delay = await store.longest_delay(API_ALIVE_SECONDS + 1)
                assert delay < limit, f"{change.__name__} to {offset:+d} s"
                ended = list(map(store.has_ended, conversations))
                assert not any(ended), f"{change.__name__} to {offset:+d} s"
                logger.info("%s to %+d s: longest delay %.2f s", change.__name__, offset, delay)
