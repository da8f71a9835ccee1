"""Fixtures with the whole system, started once for each test module."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from openai import OpenAI

from tests.scripted_provider import ScriptedProvider, scripted_provider
from tests.system import System


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[System]:
    """A module may set UP (arguments of `scripts/up`), ENVIRONMENT, WITH_PROVIDER and OWN_STORES.

    Tests may kill stores only with OWN_STORES.
    """
    arguments = getattr(request.module, "UP", ())
    environment = getattr(request.module, "ENVIRONMENT", {})
    if not getattr(request.module, "OWN_STORES", False):
        environment = {**environment, **request.getfixturevalue("empty_stores")}
    if getattr(request.module, "WITH_PROVIDER", False):
        provider: ScriptedProvider = request.getfixturevalue("provider")
        environment = {**environment, "OPENAI_BASE_URL": provider.url}
    system = System(tmp_path_factory.mktemp("system") / "data", *arguments, environment=environment)
    yield system.start()
    system.stop()


@pytest.fixture
def client(running: System) -> Iterator[OpenAI]:
    """Does not retry, because a retry would hide a failure."""
    with OpenAI(base_url=f"{running.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def urls(running: System) -> list[str]:
    """The URLs of both apis. Each URL leads to one api."""
    return [running.env["API_1_URL"], running.env["API_2_URL"]]


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as client:
        yield client
