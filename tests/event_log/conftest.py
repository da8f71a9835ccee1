from collections.abc import AsyncIterator

import pytest

from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.event_log.appending import open_log
from tests.log import Log


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[EventReader]:
    pool = make_pool(settings.postgres_url)
    await pool.open()
    yield EventReader(pool)
    await pool.close()


@pytest.fixture
async def events(settings: Settings) -> AsyncIterator[EventLog]:
    async with open_log(settings.postgres_url) as events:
        yield events


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)
