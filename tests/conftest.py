"""Fixtures for every test. The database servers are real."""

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

SLOW = ("end_to_end", "test_docs", "scripts", "embedded", "fixtures", "projections")
"""Slow tests run first, so that no worker runs a long file alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def slow_first(item: pytest.Item) -> int:
        name = item.path.stem if item.path.stem in SLOW else item.path.parent.name
        return SLOW.index(name) if name in SLOW else len(SLOW)

    items.sort(key=slow_first)


def _is_main_process(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    # If a shell starts pytest in the background, pytest ignores SIGINT. But some tests send SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _is_main_process(config):
        servers.begin_session()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _is_main_process(config):
        servers.end_session()


@pytest.fixture(scope="session")
def server_urls() -> dict[str, str]:
    return servers.shared_urls("stores", *sorted(STORES))


@pytest.fixture(scope="session")
def model_url() -> str:
    return servers.shared_urls("model", *MODEL)["OPENAI_BASE_URL"]


@pytest.fixture(scope="module")
def empty_stores(server_urls: dict[str, str]) -> dict[str, str]:
    return servers.empty_databases(server_urls)


@pytest.fixture(scope="session")
def _databases(server_urls: dict[str, str]) -> Iterator[servers.WorkerDatabases]:
    databases = servers.WorkerDatabases(server_urls)
    yield databases
    databases.close()


@pytest.fixture
def settings(_databases: servers.WorkerDatabases, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with empty databases. No model is started. The environment variables of the shell are ignored."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    _databases.clean()
    return Settings(
        postgres_url=_databases.postgres_url,
        mongodb_url=_databases.mongodb_url,
        redis_url=_databases.redis_url,
        allowed_hosts=frozenset({"store"}),
    )


@pytest.fixture
def system() -> Iterator[Callable[..., System]]:
    """Starts `scripts/up`. All its processes end with the test."""
    with TemporaryDirectory(prefix="conversation-store-up-") as directory, ExitStack() as stops:

        def start(*arguments: str, data: Path | None = None, environment: Mapping[str, str] | None = None) -> System:
            directory_of_system = data or Path(directory) / uuid.uuid4().hex
            system = System(directory_of_system, *arguments, environment=environment or {})
            # `stop` fails if another system still runs in the same directory.
            stops.callback(system.stop)
            return system.start()

        yield start
