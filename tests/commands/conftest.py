"""The command API in this process, on the test's own servers.

provider   a scripted provider of the test's own
api        the command API; in a module with WITH_PROVIDER it asks `provider`, and these are its other settings
log        what it has put on record
"""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from infrastructure.settings import Settings
from tests.commands.replying import open_api
from tests.log import Log
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def api(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    if (others := getattr(request.module, "WITH_PROVIDER", None)) is not None:
        provider: ScriptedProvider = request.getfixturevalue("provider")
        settings = settings.model_copy(update={"openai_base_url": provider.url, **others})
    async with open_api(settings) as client:
        yield client


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)
