"""Redis refuses commands while replies run. Clients still get complete streams."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from redis.asyncio import Redis

from infrastructure.settings import Settings
from replies.live_events import stream_key
from tests.commands.api_client import events_of, eventually, open_api, output_text, post_response
from tests.queries.conftest import open_api as open_query_api
from tests.queries.conftest import open_projector, served
from tests.redis_faults import FAULTS, Fault, own_valkey
from tests.scripted_provider import Exchange, ScriptedProvider

WORDS = ["one ", "two ", "three ", "four"]


@pytest.fixture
async def settings(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[Settings]:
    async with own_valkey() as url:
        yield settings.model_copy(update={"redis_url": url, "openai_base_url": provider.url, "model_window": 2_000})


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def reads(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The query API. It shares only the stores with the command API, as another process would."""
    async with open_query_api(settings) as client:
        yield client


class SteppedAnswer:
    """Sends one word for each call of `next`. One more call ends the answer."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)

    def next(self) -> None:
        self._steps.release()

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        for word in WORDS:
            self._steps.acquire(timeout=30)
            exchange.text_chunk(word)
        self._steps.acquire(timeout=30)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()


@pytest.mark.parametrize("fault", FAULTS)
async def test_streams_are_complete_although_redis_refuses_commands(
    fault: Fault, api: httpx.AsyncClient, reads: httpx.AsyncClient, provider: ScriptedProvider, admin: Redis
) -> None:
    provider.script = answer = SteppedAnswer()
    queued = (await post_response(api, "hi", background=True)).json()
    answer.next()
    await until(lambda: is_stream(admin, stream_key(queued["id"])))
    follower = asyncio.create_task(reads.get(f"/v1/responses/{queued['id']}?stream=true"))
    async with fault(admin):
        answer.next()
        async with asyncio.timeout(10):
            late_client = asyncio.create_task(post_response(api, "and this", stream=True))
            await eventually(lambda: requests_or_none(provider, 2))
        answer.next()
    for _ in range(8):
        answer.next()
    async with asyncio.timeout(20):
        followed, late = events_of(await follower), events_of(await late_client)
    for events in (followed, late):
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] == "response.completed"
        assert output_text(events[-1]["response"]) == "".join(WORDS)
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert "".join(deltas) == "".join(WORDS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_reply_can_be_cancelled_through_another_app_while_redis_refuses(
    fault: Fault, settings: Settings, provider: ScriptedProvider, admin: Redis
) -> None:
    provider.script = answer = SteppedAnswer()
    async with open_api(settings) as api, open_api(settings) as other, open_query_api(settings) as reads:
        queued = (await post_response(api, "hi", background=True)).json()
        async with fault(admin):
            answer.next()
            await eventually(lambda: requests_or_none(provider, 1))
            follower = asyncio.create_task(reads.get(f"/v1/responses/{queued['id']}?stream=true"))
            async with asyncio.timeout(10):
                cancelled = await other.post(f"/v1/responses/{queued['id']}/cancel")
                events = events_of(await follower)
            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert events[-1]["response"]["status"] == "cancelled"
        async with open_projector(settings) as projector:
            await projector.catch_up()
            assert (await reads.get(f"/v1/responses/{queued['id']}")).json()["status"] == "cancelled"
        for _ in range(8):
            answer.next()


async def test_a_follower_through_the_query_api_gets_each_event_when_it_comes(
    api: httpx.AsyncClient, settings: Settings, provider: ScriptedProvider
) -> None:
    provider.script = answer = SteppedAnswer()
    queued = (await post_response(api, "hi", background=True)).json()
    path = f"/v1/responses/{queued['id']}?stream=true"
    async with (
        served(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        client.stream("GET", path) as stream,
    ):
        chunks = stream.aiter_text()
        for word in WORDS:
            answer.next()
            async with asyncio.timeout(5):
                while f'"delta":"{word}"' not in await anext(chunks):
                    pass
        answer.next()
        async with asyncio.timeout(5):
            assert "response.completed" in "".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("kind", ["string", "list"])
async def test_a_follower_is_served_although_the_stream_key_has_another_type(
    kind: str, api: httpx.AsyncClient, reads: httpx.AsyncClient, provider: ScriptedProvider, admin: Redis
) -> None:
    provider.script = answer = SteppedAnswer()
    queued = (await post_response(api, "hi", background=True)).json()
    key = stream_key(queued["id"])
    answer.next()
    await until(lambda: is_stream(admin, key))
    follower = asyncio.create_task(reads.get(f"/v1/responses/{queued['id']}?stream=true"))
    # In one transaction, because the reply may make its stream again in between.
    async with admin.pipeline(transaction=True) as replacing:
        replacing.delete(key)
        replacing.set(key, "x") if kind == "string" else replacing.rpush(key, "x")
        await replacing.execute()
    answer.next()
    await until(lambda: is_stream(admin, key))
    for _ in range(8):
        answer.next()
    async with asyncio.timeout(20):
        events = events_of(await follower)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert output_text(events[-1]["response"]) == "".join(WORDS)


async def is_stream(admin: Redis, key: str) -> bool:
    return bool(await admin.type(key) == "stream")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  # only Redis shows it
            await asyncio.sleep(0.01)


def requests_or_none(provider: ScriptedProvider, count: int) -> int | None:
    return len(provider.requests) if len(provider.requests) >= count else None
