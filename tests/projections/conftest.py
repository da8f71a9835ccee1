"""Fixtures. `live` is `world` while a projector updates all views."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from infrastructure.event_log.log import EventLog
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.writer import Writer


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Logs tracebacks without local variables, because printing the variables takes seconds."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
async def write(settings: Settings) -> AsyncIterator[Writer]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield Writer(log)
    await log.close()


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    world = World(settings)
    await world.pool.open()
    yield world
    await world.close()


@pytest.fixture
async def live(world: World) -> AsyncIterator[World]:
    stop = asyncio.Event()
    running = asyncio.create_task(world.projector().run(stop))
    yield world
    stop.set()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await running
