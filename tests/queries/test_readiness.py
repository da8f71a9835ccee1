"""`/health/ready` of the query API reports a partition without a living projector, and a read-only Postgres."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import psycopg
import pytest

from infrastructure.ids import mint_uuid
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from projections.views.partitions import ALL_PARTITIONS
from queries.log_access import LogAccess
from queries.partition_watch import DEAD_AFTER_SECONDS, INTERVAL_SECONDS, PartitionWatch
from tests.commands.test_readiness import read_only
from tests.manual_clock import ManualClock
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector


async def partitions_held(api: httpx.AsyncClient) -> str:
    answer = await api.get("/health/ready")
    assert answer.status_code == 200
    state = str(answer.json()["checks"]["partitions_held"])
    assert state == "ok" or answer.json()["status"] == "degraded"
    return state


async def test_readiness_is_degraded_while_no_projector_runs(
    api: httpx.AsyncClient, projector: ManualProjector
) -> None:
    assert await partitions_held(api) == "failed"
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    async with asyncio.timeout(10):
        while await partitions_held(api) == "failed":  # noqa: ASYNC110 - no event says when the projector holds them
            await asyncio.sleep(0.05)
    stop.set()
    await running
    assert await partitions_held(api) == "failed"


@pytest.fixture
async def log_access(settings: Settings) -> AsyncIterator[LogAccess]:
    pool = make_pool(settings.postgres_url)
    await pool.open()
    yield LogAccess(pool)
    await pool.close()


def hold(settings: Settings, projector: UUID, beat: int) -> None:
    """Makes the projector hold all partitions."""
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("DELETE FROM projectors")
        connection.execute("INSERT INTO projectors VALUES (%s, %s)", (projector, beat))
        connection.execute("DELETE FROM projection_leases")
        connection.execute(
            "INSERT INTO projection_leases SELECT unnest(%s::smallint[]), %s, 1", (list(ALL_PARTITIONS), projector)
        )


async def test_a_projector_that_died_without_releasing_its_partitions_holds_none(
    settings: Settings, log_access: LogAccess
) -> None:
    clock, projector = ManualClock(), mint_uuid()
    watch = PartitionWatch(log_access, clock)
    for beat in range(10):
        hold(settings, projector, beat)
        assert await watch.are_all_held()
        clock.seconds += INTERVAL_SECONDS
    for _ in range(round(DEAD_AFTER_SECONDS / INTERVAL_SECONDS) - 1):
        assert await watch.are_all_held()
        clock.seconds += INTERVAL_SECONDS
    assert not await watch.are_all_held()
    hold(settings, projector, 10)
    assert await watch.are_all_held()


async def test_readiness_is_degraded_while_postgres_is_read_only(settings: Settings, api: httpx.AsyncClient) -> None:
    assert (await api.get("/health/ready")).json()["checks"]["log_writable"] == "ok"
    with read_only(settings):
        async with open_api(settings) as other_api:
            answer = await other_api.get("/health/ready")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["checks"]["log_writable"]) == ("degraded", "failed")
