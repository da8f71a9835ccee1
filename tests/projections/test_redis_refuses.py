"""Redis refuses to write or answers with errors, or a snapshot is broken."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from structlog.testing import capture_logs

from context.snapshot_from_log import refill
from context.snapshots import snapshot_keys
from domain.commands import PinItem
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import CONTEXT, MONGO_VIEWS
from tests.projections.history import write_many_kinds
from tests.projections.poison import nothing_parked
from tests.projections.world import World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer
from tests.redis_faults import FAULTS, Fault, config, out_of_memory, own_valkey, refusing_server


@pytest.fixture
async def settings(settings: Settings) -> AsyncIterator[Settings]:
    async with own_valkey() as url:
        yield settings.model_copy(update={"redis_url": url})


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_conversation_is_parked_and_reads_are_right_while_redis_refuses_writes(
    fault: Fault, write: Writer, world: World, admin: Redis
) -> None:
    ids = await write_many_kinds(write)
    metrics = Metrics()
    projector = world.projector(metrics=metrics)
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    await world.until(world.caught_up)
    with capture_logs() as logged:
        async with open_api(world.settings) as api:
            async with fault(admin):
                await write.append(ids["plain"], "while it refuses")
                await write_many_kinds(write)
                await write.delete(ids["described"])
                await world.until(lambda: _is(not projector.is_ready))
                await world.until(lambda: world.caught_up(MONGO_VIEWS))
                for _ in range(3):
                    assert await last_text(api, ids["plain"]) == "while it refuses"
                await write.append(ids["plain"], "again")
                assert await last_text(api, ids["plain"]) == "again"
                assert await nothing_parked(world)
                await world.until(lambda: _is(interruptions(metrics) >= 3))
            await world.until(world.caught_up, seconds=10)
            await world.until(lambda: _is(projector.is_ready), seconds=10)
            assert await last_text(api, ids["plain"]) == "again"
    stop.set()
    await running
    assert await nothing_parked(world)
    assert await world.matches_log()
    interrupted = [entry for entry in logged if entry["event"] == "projection_interrupted"]
    assert [entry["projections"] for entry in interrupted] == [[CONTEXT]], (
        "the interruption was not logged exactly once"
    )


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Valkey is loading the dataset in memory",
        "CLUSTERDOWN Hash slot not served",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "ERR unknown command",
        "NOAUTH Authentication required.",
    ],
)
async def test_no_conversation_is_parked_and_reads_are_right_while_redis_answers_errors(
    error: str, write: Writer, settings: Settings, world: World
) -> None:
    await world.catch_up(MONGO_VIEWS)
    async with refusing_server(error) as url:
        refused = World(settings.model_copy(update={"redis_url": url}))
        await refused.pool.open()
        metrics = Metrics()
        projector = refused.projector(metrics=metrics)
        stop = asyncio.Event()
        running = asyncio.create_task(projector.run(stop))
        ids = await write_many_kinds(write)
        async with open_api(refused.settings) as api:
            await world.until(lambda: _is(interruptions(metrics) >= 3))
            await world.until(lambda: world.caught_up(MONGO_VIEWS))
            assert await last_text(api, ids["plain"]) == "you there"
        stop.set()
        await running
        await refused.close()
    assert await nothing_parked(world)
    await world.catch_up()
    assert await world.matches_log()


@pytest.mark.parametrize(
    "commands",
    [
        ["DEL {key}", "SET {key} x"],
        ["DEL {key}", "RPUSH {key} x"],
        ["DEL {key}"],
        ["HSET {key} version nothing"],
        ["HSET {key} first nothing"],
        ["HSET {key} settings nonsense"],
        ["HSET {key} first x bytes y"],
        ["DEL {items}", "SET {items} x"],
        ["DEL {items}"],
        ["RPUSH {items} nonsense"],
        ["LSET {items} 0 nonsense"],
    ],
)
@pytest.mark.parametrize("change", ["append", "pin_needs_the_log", "delete"])
async def test_a_broken_snapshot_is_made_again(
    commands: list[str], change: str, write: Writer, world: World, admin: Redis
) -> None:
    victim, other = await write.start("one"), await write.start("other")
    await world.catch_up()
    key, items = snapshot_keys("default", victim)
    for command in commands:
        await admin.execute_command(*command.format(key=key, items=items).split())  # type: ignore[no-untyped-call]
    async with open_api(world.settings) as api:
        assert await last_text(api, victim) == "one"
        match change:
            case "append":
                await write.append(victim, "two")
            case "pin_needs_the_log":
                [item_id] = await write.append(victim, "two")
                await write.execute(victim, PinItem(item_id=item_id))
            case _:
                await write.delete(victim)
        await write.append(other, "too")
        await world.catch_up()
        if change != "delete":
            assert await last_text(api, victim) == "two"
    assert await nothing_parked(world)
    assert await world.matches_log()


async def test_a_redis_without_free_memory_refuses_a_snapshot_made_from_the_log(
    write: Writer, world: World, admin: Redis
) -> None:
    conversation = await write.start("one")
    await world.catch_up()
    await write.append(conversation, "two")
    async with out_of_memory(admin):
        for key in ("kept", "removed"):
            if key == "removed":
                await admin.flushall()
            with pytest.raises(OutOfMemoryError):
                await refill(world.reader, world.redis, "default", conversation, 3)


async def test_a_full_redis_evicts_snapshots_and_contexts_stay_right(write: Writer, live: World, admin: Redis) -> None:
    await live.until(live.caught_up)
    used = (await admin.info("memory"))["used_memory"]
    limit = await config(admin, "maxmemory")
    await admin.config_set("maxmemory", used + 2_000_000)
    try:
        conversations = [await write.start("x" * 200_000, str(number)) for number in range(30)]
        await live.until(live.caught_up)
        async with open_api(live.settings) as api:
            for number, conversation in enumerate(conversations):
                assert await last_text(api, conversation) == str(number)
        assert (await admin.info("stats"))["evicted_keys"] > 0
        await write.append(conversations[0], "more")
        await live.until(live.caught_up)
    finally:
        await admin.config_set("maxmemory", limit)
    assert await nothing_parked(live)
    assert await live.matches_log_but_may_lack_snapshots()


async def last_text(api: httpx.AsyncClient, conversation_id: str) -> str:
    answer = await api.get(f"/v1/conversations/{conversation_id}/context?model=smol")
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["items"][-1]["item"]["content"][0]["text"]
    return text


def interruptions(metrics: Metrics) -> float:
    samples = [
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "conversation_store_projection_interruptions_total" and sample.labels["projection"] == CONTEXT
    ]
    return sum(samples)


async def _is(condition: bool) -> bool:
    return condition
