"""`scripts/up` starts the servers, restarts children that die, and leaves no process behind."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis import Redis
from redis.exceptions import RedisError

from infrastructure.settings import Settings
from scripts.up import without_credentials
from tests.servers import ROOT, wait_until
from tests.system import System


@pytest.fixture(scope="module")
def running() -> Iterator[System]:
    with TemporaryDirectory(prefix="conversation-store-up-") as directory:
        system = System(Path(directory) / "data", "--apis", "2").start()
        yield system
        system.stop()


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=15) as answer:
        return int(answer.status)


def keep_row(url: str, value: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def rows_kept(url: str) -> list[str]:
    with psycopg.connect(url, connect_timeout=5) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM kept")]


def keep_document(url: str, value: str) -> None:
    with mongo(url) as client:
        client["kept"]["kept"].insert_one({"value": value})


def documents_kept(url: str) -> list[str]:
    with mongo(url) as client:
        return [document["value"] for document in client["kept"]["kept"].find()]


def mongo(url: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(url, serverSelectionTimeoutMS=5000, w="majority", journal=True)


def false_while_unavailable(condition: Callable[[], bool], *unavailable: type[Exception]) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return condition()
        except unavailable:
            return False

    return check


def test_a_killed_postgres_is_restarted_with_its_data_even_if_a_backend_outlives_it(running: System) -> None:
    url = running.env["POSTGRES_URL"]
    keep_row(url, "before the kill")
    with closing(psycopg.connect(url)) as busy:
        busy.pgconn.send_query(b"SELECT pg_sleep(300)")
        old = running.kill("postgres")
        running.wait_restarted("postgres", old)
    wait_until(
        false_while_unavailable(lambda: "before the kill" in rows_kept(url), psycopg.OperationalError),
        20,
        "Postgres to have the row",
    )


def test_a_killed_mongod_is_restarted_at_its_url_with_its_data(running: System) -> None:
    url = running.env["MONGODB_URL"]
    keep_document(url, "before the kill")
    running.wait_restarted("mongod", running.kill("mongod"))
    wait_until(
        false_while_unavailable(lambda: "before the kill" in documents_kept(url), PyMongoError),
        20,
        "mongod to have the document",
    )


def test_a_killed_valkey_is_restarted_at_its_url_and_is_empty(running: System) -> None:
    with Redis.from_url(running.env["REDIS_URL"]) as client:
        client.set("kept", "no")
        running.wait_restarted("valkey", running.kill("valkey"))
        empty = false_while_unavailable(lambda: client.get("kept") is None, RedisError)
        wait_until(empty, 20, "Valkey to be empty")


@pytest.mark.parametrize("name", ["model", "api", "api-2", "projector"])
def test_a_killed_model_api_or_projector_is_restarted(running: System, name: str) -> None:
    running.wait_restarted(name, running.kill(name))
    running.wait_ready()


def test_a_connection_waits_while_every_api_is_replaced(running: System) -> None:
    old = {name: running.kill(name) for name in ("api", "api-2")}
    assert status_of(f"{running.base_url}/health/live") == 200
    for name, pid in old.items():
        running.wait_restarted(name, pid)
        assert status_of(f"{running.env['API_1_URL']}/health/live") == 200


def test_a_second_start_on_the_same_directory_is_refused(running: System) -> None:
    second = System(running.data)
    second.launch()
    assert second.wait() == 1
    assert f"in use by the process {running.supervisor}" in second.output()
    assert running.pid("postgres")


def test_a_port_that_is_taken_is_named_in_the_error(running: System, tmp_path: Path) -> None:
    second = System(tmp_path / "data", port=running.port)
    second.launch()
    assert second.wait() == 1
    assert f"cannot listen on 127.0.0.1:{running.port}" in second.output()


def test_the_run_directory_has_every_pid_and_a_private_file_of_urls(running: System) -> None:
    names = {"postgres", "mongod", "valkey", "model", "api", "api-2", "projector"}
    assert {file.stem for file in (running.data / "run").glob("*.pid")} == names
    assert (running.data / "run" / "env").stat().st_mode & 0o777 == 0o600
    assert set(running.env) == {
        *("POSTGRES_URL", "MONGODB_URL", "REDIS_URL", "OPENAI_BASE_URL", "BASE_URL"),
        *("API_1_URL", "API_1_METRICS_URL", "API_2_URL", "API_2_METRICS_URL", "PROJECTOR_1_METRICS_URL"),
    }
    assert running.env["BASE_URL"] == running.base_url
    for name in ("API_1_METRICS_URL", "API_2_METRICS_URL", "PROJECTOR_1_METRICS_URL"):
        assert status_of(running.env[name]) == 200
    with urllib.request.urlopen(f"{running.env['OPENAI_BASE_URL']}/models", timeout=15) as answer:
        assert json.load(answer)["data"][0]["id"] == "smollm2-135m"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@db:1/x?password=pw", "postgresql://***@db:1/x"),
        ("redis://:pw@cache/0", "redis://***@cache/0"),
        ("host=db password=pw", "***"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_after_sigterm_or_sigkill_no_process_is_left_and_the_data_is_kept(
    system: Callable[..., System],
) -> None:
    first = system("--no-model")
    urls = first.env
    keep_row(urls["POSTGRES_URL"], "one")
    keep_document(urls["MONGODB_URL"], "one")
    first.stop()
    assert not (first.data / "run" / "env").exists()

    second = system("--no-model", data=first.data)
    assert {name: second.env[name] for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")} == {
        name: urls[name] for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")
    }
    keep_row(urls["POSTGRES_URL"], "two")
    keep_document(urls["MONGODB_URL"], "two")
    os.kill(second.supervisor, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    second.wait_gone()

    third = system("--no-model", data=first.data)
    assert rows_kept(third.env["POSTGRES_URL"]) == ["one", "two"]
    assert documents_kept(third.env["MONGODB_URL"]) == ["one", "two"]


def test_servers_in_the_environment_are_used_instead_of_embedded_ones(
    system: Callable[..., System], settings: Settings
) -> None:
    urls = {
        "POSTGRES_URL": settings.postgres_url,
        "MONGODB_URL": settings.mongodb_url,
        "REDIS_URL": settings.redis_url,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }
    started = system(environment=urls)
    assert {name: started.env[name] for name in urls} == urls
    assert {file.stem for file in (started.data / "run").glob("*.pid")} == {"api", "projector"}


def test_a_child_that_cannot_start_stops_scripts_up_with_a_message(tmp_path: Path) -> None:
    system = System(tmp_path / "data", "--no-model")
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "secret").write_text("0" * 64)
    (tmp_path / "data" / "secret").chmod(0o600)
    system.launch()
    assert system.wait() == 1
    assert "postgres exited with status 2, 4 times in a row" in system.output()
    system.wait_gone()


def test_scripts_up_runs_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").touch()
    done = subprocess.run(
        [ROOT / "scripts" / "up", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--projectors" in done.stdout
