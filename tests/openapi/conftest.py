"""A store for the tests of this folder. Its provider gives every request the same answer."""

import json
from collections.abc import Iterator

import pytest

from tests.scripted_provider import scripted_provider
from tests.system import System

MODELS = ("smollm2-135m", "gpt-5-mini")
"""The first one is the default model. The document's examples name the second one."""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    for provider in scripted_provider():
        provider.models = [*MODELS]
        environment = {
            "OPENAI_BASE_URL": provider.url,
            "MODELS": json.dumps({model: {"window": 100_000} for model in MODELS}),
        }
        system = System(tmp_path_factory.mktemp("openapi") / "data", "--no-model", environment=environment)
        yield system.start()
        system.stop()
