"""Code that is older than the data exits with status 1 and names the unknown migration."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from infrastructure.embedded.directory import free_port
from infrastructure.settings import Settings
from tests.servers import ROOT
from tests.system import System

FOUND = "9999_from_the_future.sql"
NEWEST = max((ROOT / "infrastructure" / "event_log" / "migrations").glob("*.sql")).name


def add_migration(settings: Settings) -> None:
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("INSERT INTO migrations (name) VALUES (%s)", [FOUND])


@pytest.fixture
def store(settings: Settings) -> Iterator[Settings]:
    """Removes the test's migration afterwards."""
    yield settings
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("DELETE FROM migrations WHERE name = %s", [FOUND])


def urls(settings: Settings) -> dict[str, str]:
    return {
        "POSTGRES_URL": settings.postgres_url,
        "MONGODB_URL": settings.mongodb_url,
        "REDIS_URL": settings.redis_url,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }


PROCESSES = (
    ["commands.main"],
    ["queries.main"],
    ["scripts.api"],
    ["projections.main"],
    ["scripts.verify", "--data", "nowhere"],
    ["scripts.rebuild", "all", "--data", "nowhere"],
)


def test_with_an_unknown_migration_each_process_exits_with_status_1(store: Settings) -> None:
    add_migration(store)
    with ExitStack() as processes:
        started = [
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", *arguments],
                    env={**os.environ, **urls(store), "PYTHONPATH": str(ROOT), "PORT": str(free_port())},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for arguments in PROCESSES
        ]
        for process in started:
            processes.callback(process.kill)
        for arguments, process in zip(PROCESSES, started, strict=True):
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 1, f"{arguments}: {output}"
            assert FOUND in output, arguments
            assert NEWEST in output, arguments
            assert "Traceback" not in output, arguments


def test_scripts_up_exits_if_a_restarted_child_finds_a_newer_migration(
    store: Settings, system: Callable[..., System]
) -> None:
    running = system(environment=urls(store))
    add_migration(store)
    running.kill("api")
    assert running.wait() == 1
    assert (
        f"it contains migration {FOUND}; this version knows none newer than {NEWEST}. Start a newer version."
        in running.output()
    )
    running.wait_gone()

    second = System(running.data, environment=urls(store))
    second.launch()
    assert second.wait() == 1
    # The line begins with the name of an api or the projector.
    assert (
        f" cannot be prepared: The data is newer than this version of the store: it contains migration {FOUND}"
        in second.output()
    )
    second.wait_gone()
