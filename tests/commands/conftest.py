"""The command API in this process. `apis` has a second app, which stands for another process.

`api` uses `provider` if the module sets WITH_PROVIDER.
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
