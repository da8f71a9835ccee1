"""Fixtures for the tests of replies.

`http` is Ann's client of a running store with both APIs, a projector and the scripted provider.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS
from tests.log import Log
from tests.principals import headers_of
from tests.replies.both_apis import open_both_apis, served
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def http(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    stop = asyncio.Event()
    changed = {"openai_base_url": provider.url, "model_window": 8_000, "default_model": "scripted"}
    async with open_both_apis(settings.model_copy(update=changed), with_principals=True, views=ALL_VIEWS) as apis:
        projecting = asyncio.create_task(apis.projector.run(stop))
        async with served(apis.app) as client:
            client.headers.update(headers_of("ann"))
            yield client
        stop.set()
        await projecting
