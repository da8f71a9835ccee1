"""The fixture `write`, which appends events to the log of the test."""

from collections.abc import AsyncIterator

import pytest

from infrastructure.event_log.log import EventLog
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.queries.writer import Writer


@pytest.fixture
async def write(settings: Settings) -> AsyncIterator[Writer]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield Writer(log)
    await log.close()
