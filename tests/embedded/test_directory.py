"""The data directory: its owner, its secret, its ports, and its logs."""

import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from pymongo import MongoClient

from infrastructure.embedded.directory import DataDirectory, InUseError
from infrastructure.embedded.logs import last_lines, rotate
from tests.servers import ROOT, wait_until


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / "data")
    directory.lock()
    yield directory
    directory.unlock()


def test_a_directory_has_one_owner_at_a_time(directory: DataDirectory) -> None:
    with pytest.raises(InUseError, match="is in use by the process"):
        DataDirectory(directory.path).lock()
    directory.unlock()
    next_owner = DataDirectory(directory.path)
    next_owner.lock()
    next_owner.unlock()


def test_a_new_owner_removes_old_pid_files_and_urls(directory: DataDirectory) -> None:
    directory.pid_file("api").write_text("1")
    directory.write_env({"BASE_URL": "stale"})
    directory.unlock()
    directory.lock()
    assert not directory.pid_file("api").exists()
    assert not directory.env_file.exists()


def test_the_secret_stays_the_same_and_only_its_owner_can_read_it(directory: DataDirectory) -> None:
    assert directory.secret() == DataDirectory(directory.path).secret()
    assert directory.secret_file.stat().st_mode & 0o777 == 0o600


def test_a_missing_secret_is_not_replaced_while_postgres_uses_the_old_one(directory: DataDirectory) -> None:
    (directory.path / "postgres").mkdir()
    with pytest.raises(RuntimeError, match="restore the file"):
        directory.secret()


def test_a_child_keeps_its_port_until_another_program_takes_it(directory: DataDirectory) -> None:
    port = directory.port("api")
    assert DataDirectory(directory.path).port("api") == port
    with socket.create_server(("127.0.0.1", port)):
        assert directory.port("api") != port


def test_a_long_log_is_rotated_while_its_writer_has_it_open(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * 100)
        writer.flush()
        rotate(tmp_path, 100)
        writer.write(b"new\n")
    assert log.read_text() == "new\n"
    assert last_lines(tmp_path / "api.log.1", 2) == "old\nold"


def test_mongod_keeps_its_data_when_its_port_changes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with mongod(data) as (client, port):
        client["kept"]["kept"].insert_one({"value": "here"})
    ports = data / "run" / "ports.json"
    with occupied(json.loads(ports.read_text())["mongod"]), mongod(data) as (client, new_port):
        assert new_port != port
        assert [document["value"] for document in client["kept"]["kept"].find()] == ["here"]


@contextmanager
def occupied(port: int) -> Iterator[None]:
    """Runs another server on this port."""
    with socketserver.TCPServer(
        ("127.0.0.1", port), socketserver.BaseRequestHandler, bind_and_activate=False
    ) as server:
        server.allow_reuse_address = True
        server.server_bind()
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextmanager
def mongod(data: Path) -> Iterator[tuple[MongoClient[dict[str, Any]], int]]:
    """Runs an embedded mongod. Yields a client and the port."""
    command = (sys.executable, "-P", "-m", "infrastructure.embedded", "--data", str(data), "--only", "MONGODB_URL")
    with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL) as process:
        try:
            env = data / "run" / "env"
            wait_until(lambda: env.exists() or process.poll() is not None, 30, "mongod")
            client: MongoClient[dict[str, Any]] = MongoClient(dotenv_values(env)["MONGODB_URL"])
            with client:
                yield client, client.admin.command("getCmdLineOpts")["parsed"]["net"]["port"]
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("damaged", ['{"postgres":', "[]", '{"postgres": "x", "mongod": 99999}', ""])
def test_a_damaged_ports_file_is_ignored(tmp_path: Path, damaged: str) -> None:
    directory = DataDirectory(tmp_path)
    directory.lock()
    (tmp_path / "run" / "ports.json").write_text(damaged)
    assert 0 < directory.port("postgres") < 65536
    directory.unlock()
