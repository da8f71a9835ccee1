"""The command API in this process, on the test's own servers.

provider   a scripted model provider
api        a client of the command API. The API uses `provider` if the module defines settings for it in WITH_PROVIDER
apis       `api` and a client of a second app on the same servers, as in another process
store      a Store: the command API with a provider that writes summaries
log        reads the event log
"""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from infrastructure.settings import Settings
from tests.commands.api_client import open_api
from tests.commands.summarizing_store import Store, open_store
from tests.log import Log
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def api(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    if (provider_settings := getattr(request.module, "WITH_PROVIDER", None)) is not None:
        provider: ScriptedProvider = request.getfixturevalue("provider")
        settings = settings.model_copy(update={"openai_base_url": provider.url, **provider_settings})
    async with open_api(settings) as client:
        yield client


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@pytest.fixture
async def apis(
    settings: Settings, provider: ScriptedProvider, api: httpx.AsyncClient, request: pytest.FixtureRequest
) -> AsyncIterator[list[httpx.AsyncClient]]:
    changed = {"openai_base_url": provider.url, **request.module.WITH_PROVIDER}
    async with open_api(settings.model_copy(update=changed)) as second_api:
        yield [api, second_api]


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[Store]:
    async with open_store(settings, provider) as store:
        yield store
