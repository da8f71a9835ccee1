"""The whole system, started by its real command, shared by the tests of a module."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.system import System


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[System]:
    """`scripts/up` in a directory of the module's own; with the module's own UP (arguments) and ENVIRONMENT."""
    arguments = getattr(request.module, "UP", ())
    environment = getattr(request.module, "ENVIRONMENT", {})
    system = System(tmp_path_factory.mktemp("whole") / "data", *arguments, environment=environment)
    yield system.start()
    system.stop()


@pytest.fixture
def client(running: System) -> Iterator[OpenAI]:
    """The official SDK with nothing changed but `base_url`, and no retries that would hide a failure."""
    with OpenAI(base_url=f"{running.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client
