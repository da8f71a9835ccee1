"""What tests of the log share."""

from collections.abc import AsyncIterator

import pytest

from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[EventReader]:
    pool = make_pool(settings.postgres_url)
    await pool.open()
    yield EventReader(pool)
    await pool.close()
