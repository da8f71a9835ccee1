"""The command API in this process, on the test's own servers."""

from collections.abc import AsyncIterator

import httpx
import pytest

from commands.main import create_app
from infrastructure.metrics import Metrics
from infrastructure.settings import Settings
from tests.log import Log


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Metrics())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=30) as client:
            yield client


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)
