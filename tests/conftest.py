"""Fixtures for every test. The servers are real. The first test that needs them starts them for the whole session.

server_urls   the session's servers: POSTGRES_URL, MONGODB_URL, REDIS_URL
empty_stores  the URLs of empty databases on these servers, for the processes of a whole system
settings      Settings with the URLs of empty databases that no other test uses at the same time
model_url     the base URL of the session's local model
system        starts the whole system with `scripts/up` (see tests/system.py)
"""

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
"""Folders and files of slow tests. They run first, so that at the end no worker runs a long file while the others are idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def slow_first(item: pytest.Item) -> int:
        name = item.path.stem if item.path.stem in SLOW else item.path.parent.name
        return SLOW.index(name) if name in SLOW else len(SLOW)

    items.sort(key=slow_first)  # the sort is stable: items with the same key stay in the order of collection


def _is_main_process(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    # If a shell starts pytest in the background, pytest and its child processes ignore SIGINT. But some tests stop
    # child processes with SIGINT.
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
    """The URLs of empty databases on the session's servers, for the processes of a whole system."""
    return servers.empty_databases(server_urls)


@pytest.fixture(scope="session")
def _databases(server_urls: dict[str, str]) -> Iterator[servers.WorkerDatabases]:
    databases = servers.WorkerDatabases(server_urls)
    yield databases
    databases.close()


@pytest.fixture
def settings(_databases: servers.WorkerDatabases, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that ignore the environment variables of the shell. They have no model: see `model_url`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    _databases.clean()
    return Settings(
        postgres_url=_databases.postgres_url,
        mongodb_url=_databases.mongodb_url,
        redis_url=_databases.redis_url,
        allowed_hosts=frozenset({"store"}),  # tests call apps in their own process by the URL `http://store`
    )


@pytest.fixture
def system() -> Iterator[Callable[..., System]]:
    """`system("--apis", "2", environment={…})` starts `scripts/up` with a new directory (or in `data`) and a new port. All processes end with the test."""
    with TemporaryDirectory(prefix="conversation-store-up-") as directory, ExitStack() as stops:

        def start(*arguments: str, data: Path | None = None, environment: Mapping[str, str] | None = None) -> System:
            directory_of_system = data or Path(directory) / uuid.uuid4().hex
            system = System(directory_of_system, *arguments, environment=environment or {})
            # The system that was started last is stopped first. Two systems may share a directory, and `stop` fails
            # if a process still runs in it.
            stops.callback(system.stop)
            return system.start()

        yield start
