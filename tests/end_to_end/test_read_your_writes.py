"""One api process writes, and the other reads the change immediately. A read is current or refused.

scripts/test tests/end_to_end/test_read_your_writes.py                    a few hundred pairs, as in CI
scripts/test tests/end_to_end/test_read_your_writes.py -m endless         ten thousand pairs
READ_PAIRS=2000 scripts/test tests/end_to_end/test_read_your_writes.py    another number of pairs
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, InternalServerError
from redis.asyncio import Redis

from queries.consistency import CATCH_UP_TIMEOUT_SECONDS
from tests.system import System

UP = ("--no-model", "--apis", "2")
CONNECTIONS = 32
A_FEW = int(os.environ.get("READ_PAIRS", "320"))
TEN_THOUSAND = 10_000
FLUSH_SECONDS = 0.05
TOLERANCE_SECONDS = 1.0
"""On a busy machine, a refused read may take this much longer than CATCH_UP_TIMEOUT_SECONDS."""

Api = AsyncOpenAI
Pair = Callable[[Api, Api, str, str], Awaitable[bool]]
"""(api to write to, api to read from, conversation id, a unique text) -> whether the read shows the write."""


@pytest.fixture
async def apis(running: System) -> AsyncIterator[list[Api]]:
    """The official SDK for each process. It retries refused reads."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                AsyncOpenAI(base_url=f"{running.env[f'API_{number}_URL']}/v1", api_key="any", max_retries=5)
            )
            for number in (1, 2)
        ]


@pytest.fixture
def projector_stopped(running: System) -> Iterator[None]:
    running.kill("projector", signal.SIGSTOP)
    yield
    running.kill("projector", signal.SIGCONT)


def message(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


async def add_item(api: Api, conversation_id: str, text: str) -> str:
    return str((await api.conversations.items.create(conversation_id, items=[message(text)])).data[0].id)


async def item_is_listed(write: Api, read: Api, conversation_id: str, text: str) -> bool:
    item_id = await add_item(write, conversation_id, text)
    return item_id in [item.id for item in (await read.conversations.items.list(conversation_id, limit=5)).data]


async def item_is_retrieved(write: Api, read: Api, conversation_id: str, text: str) -> bool:
    item_id = await add_item(write, conversation_id, text)
    item = await read.conversations.items.retrieve(item_id, conversation_id=conversation_id)
    return item.type == "message" and [part.text for part in item.content if part.type == "input_text"] == [text]


async def change_is_retrieved(write: Api, read: Api, conversation_id: str, text: str) -> bool:
    await write.conversations.update(conversation_id, metadata={"text": text})
    return (await read.conversations.retrieve(conversation_id)).metadata == {"text": text}


async def conversation_is_listed(write: Api, read: Api, conversation_id: str, text: str) -> bool:
    created = await write.conversations.create(metadata={"text": text})
    page = await read.get(f"/conversations?limit={2 * CONNECTIONS}", cast_to=httpx.Response)
    return (created.id, {"text": text}) in [(listed["id"], listed["metadata"]) for listed in page.json()["data"]]


async def item_is_in_the_context(write: Api, read: Api, conversation_id: str, text: str) -> bool:
    item_id = await add_item(write, conversation_id, text)
    context = await read.get(f"/conversations/{conversation_id}/context?model=gpt-4o", cast_to=httpx.Response)
    return bool(context.json()["items"][-1]["id"] == item_id)


PAIRS: tuple[Pair, ...] = (
    item_is_listed,
    item_is_retrieved,
    change_is_retrieved,
    conversation_is_listed,
    item_is_in_the_context,
)


async def count_stale_reads(apis: Sequence[Api], pairs: Sequence[Pair], count: int) -> Counter[str]:
    stale: Counter[str] = Counter()
    numbers = iter(range(count))

    async def client(conversation_id: str) -> None:
        for number in numbers:
            write, read = apis if number % 2 else apis[::-1]
            pair = pairs[number % len(pairs)]
            stale[pair.__name__] += not await pair(write, read, conversation_id, f"{number}")

    conversation_ids = [(await apis[0].conversations.create()).id for _ in range(CONNECTIONS)]
    async with asyncio.TaskGroup() as clients:
        for conversation_id in conversation_ids:
            clients.create_task(client(conversation_id))
    assert set(stale) == {pair.__name__ for pair in pairs}
    return +stale


@pytest.mark.parametrize("count", [A_FEW, pytest.param(TEN_THOUSAND, marks=pytest.mark.endless)])
async def test_a_write_through_one_process_is_read_immediately_through_the_other(apis: list[Api], count: int) -> None:
    assert await count_stale_reads(apis, PAIRS, count) == {}


@pytest.mark.parametrize("count", [A_FEW // 2, pytest.param(TEN_THOUSAND, marks=pytest.mark.endless)])
async def test_a_context_is_never_stale_while_redis_is_emptied_repeatedly(
    running: System, apis: list[Api], count: int
) -> None:
    async with Redis.from_url(running.env["REDIS_URL"]) as redis:
        flushed = 0

        async def flush() -> None:
            nonlocal flushed
            while True:
                await redis.flushdb()
                flushed += 1
                await asyncio.sleep(FLUSH_SECONDS)

        flushing = asyncio.create_task(flush())
        try:
            assert await count_stale_reads(apis, [item_is_in_the_context], count) == {}
        finally:
            flushing.cancel()
    assert flushed > 1


@pytest.mark.usefixtures("projector_stopped")
async def test_a_stopped_projector_makes_reads_of_views_fail_but_not_a_context(
    apis: list[Api],
) -> None:
    write, read = apis[0], apis[1].with_options(max_retries=0)
    conversation = await write.conversations.create()
    item_id = await add_item(write, conversation.id, "hello")
    reads: dict[str, Callable[[], Awaitable[Any]]] = {
        "items": lambda: read.conversations.items.list(conversation.id),
        "item": lambda: read.conversations.items.retrieve(item_id, conversation_id=conversation.id),
        "conversation": lambda: read.conversations.retrieve(conversation.id),
        "list": lambda: read.get("/conversations", cast_to=httpx.Response),
    }

    for name, request in reads.items():
        started = time.monotonic()
        with pytest.raises(InternalServerError) as refused:
            await request()
        seconds = time.monotonic() - started
        assert refused.value.status_code == 503, name
        assert refused.value.code == "read_models_behind", name
        assert int(refused.value.response.headers["retry-after"]) >= 1, name
        assert CATCH_UP_TIMEOUT_SECONDS <= seconds < CATCH_UP_TIMEOUT_SECONDS + TOLERANCE_SECONDS, name

    path = f"/conversations/{conversation.id}/context?model=gpt-4o"
    context = await read.get(path, cast_to=httpx.Response)  # made from the log, without a snapshot
    assert [item["id"] for item in context.json()["items"]] == [item_id]


async def test_a_projector_that_was_stopped_catches_up(running: System, apis: list[Api]) -> None:
    conversation = await apis[0].conversations.create()
    running.kill("projector", signal.SIGSTOP)
    try:
        written = [await add_item(apis[0], conversation.id, f"{number}") for number in range(50)]
    finally:
        running.kill("projector", signal.SIGCONT)
    page = await apis[1].conversations.items.list(conversation.id, order="asc", limit=100)
    assert [item.id for item in page.data] == written
