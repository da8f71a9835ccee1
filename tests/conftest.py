"""Fixtures for every test. The servers are real; they start when the first test asks, once a session.

urls        the session's servers: POSTGRES_URL, MONGODB_URL, REDIS_URL
settings    a Settings of a Postgres database, a Mongo database and a Valkey number that are this test's own, and empty
model_url   the base URL of the session's local model
system      starts the whole system by its real command, `scripts/up` (see tests/system.py)
"""

import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from infrastructure.embedded.stores import MODEL, STORES
from infrastructure.settings import Settings
from tests import servers
from tests.system import System

SLOW = ("whole", "scripts", "embedded", "fixtures", "projections")
"""Where the files are that take long. They are begun first: in the end no worker is left alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def slow_first(item: pytest.Item) -> int:
        directory = item.path.parent.name
        return SLOW.index(directory) if directory in SLOW else len(SLOW)

    items.sort(key=slow_first)  # otherwise in the order they were found in


def _leads(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in the background has it ignored, and all that is started here would: tests interrupt scripts with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _leads(config):
        servers.begin_session()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _leads(config):
        servers.end_session()


@pytest.fixture(scope="session")
def urls() -> dict[str, str]:
    return servers.shared("stores", *sorted(STORES))


@pytest.fixture(scope="session")
def model_url() -> str:
    return servers.shared("model", *MODEL)["OPENAI_BASE_URL"]


@pytest.fixture(scope="session")
def _share(urls: dict[str, str]) -> Iterator[servers.Share]:
    share = servers.Share(urls, os.environ.get("PYTEST_XDIST_WORKER", "alone"))
    yield share
    share.close()


@pytest.fixture
def settings(_share: servers.Share, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """No environment variable of whoever runs the tests shines through. There is no model: see `model_url`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    _share.clean()
    return Settings(postgres_url=_share.postgres_url, mongodb_url=_share.mongodb_url, redis_url=_share.redis_url)


@pytest.fixture
def system() -> Iterator[Callable[..., System]]:
    """`system("--apis", "2", environment={…})` starts `scripts/up` on a new directory and port; all of it ends with the test."""
    with TemporaryDirectory(prefix="conversation-store-up-") as directory, ExitStack() as stops:

        def start(*arguments: str, data: Path | None = None, environment: Mapping[str, str] | None = None) -> System:
            place = data or Path(directory) / uuid.uuid4().hex
            system = System(place, *arguments, environment=environment or {})
            stops.callback(system.stop)  # the last one first: they may share a directory
            return system.start()

        yield start
