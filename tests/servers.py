"""The servers of a test session. Each test worker has its own Postgres, MongoDB and Valkey database.

The first test that needs a server starts it. The servers stop when the session's main process ends, even if it is killed.
"""

import asyncio
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from dotenv import dotenv_values
from psycopg import sql
from pymongo import MongoClient
from redis import Redis

from infrastructure.embedded.directory import EPHEMERAL_RANGE, free_port
from infrastructure.event_log.migrate import migrate

ROOT = Path(__file__).resolve().parent.parent
SESSION = "CONVERSATION_STORE_TEST_SESSION"
LEADER = "CONVERSATION_STORE_TEST_LEADER"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0
FIRST_SYSTEM_REDIS = 32
"""The lower half of Valkey's 64 databases is for `WorkerDatabases`, the upper half for `empty_databases`."""

EMPTY_TABLES = b"""
DO $$
DECLARE
    relation record;
    has_rows boolean;
BEGIN
    SET LOCAL session_replication_role = replica;  -- skips the triggers that keep the log immutable
    FOR relation IN SELECT c.oid, c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                    WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') AND relname <> 'migrations'
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation.name) INTO has_rows;
        IF has_rows AND pg_relation_size(relation.oid) > 4 * 1024 * 1024 THEN
            EXECUTE format('TRUNCATE %s CASCADE', relation.name);
        ELSIF has_rows THEN  -- ten times faster than TRUNCATE for a few rows
            EXECUTE format('DELETE FROM %s', relation.name);
        END IF;
    END LOOP;
    PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL;
END $$
"""


def port_to_keep() -> int:
    """A free port for a server that is stopped and started again.

    The port is above the kernel's range for outgoing connections, and `free_port` chooses lower ports.
    If no such port is free, the port comes from `free_port`, and another server may take it later.
    """
    above = int(EPHEMERAL_RANGE.read_text().split()[1]) + 1 if EPHEMERAL_RANGE.exists() else 65_536
    reservations = Path(tempfile.gettempdir()) / f"conversation-store-test-ports-{os.getuid()}"
    reservations.mkdir(exist_ok=True)
    for port in random.sample(range(above, 65_536), 65_536 - above):
        # Held until this process ends, so no other test process takes the port.
        reservation = os.open(reservations / str(port), os.O_CREAT | os.O_RDWR)
        with suppress(BlockingIOError), socket.socket() as probe:
            fcntl.flock(reservation, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
        os.close(reservation)
    return free_port()


def loopback_listener() -> socket.socket:
    """A listening socket on a free port of 127.0.0.1.

    The protocol is named because asyncio then sets TCP_NODELAY. Without TCP_NODELAY, each answer takes 40 ms longer.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def begin_session() -> None:
    os.environ[SESSION] = tempfile.mkdtemp(prefix="conversation-store-tests-")
    os.environ[LEADER] = str(os.getpid())


def end_session() -> None:
    """Stops the servers. Called once by the main process."""
    session = Path(os.environ.pop(SESSION))
    del os.environ[LEADER]
    held_locks = [lock for lock in session.glob("*/run/lock") if not is_free(lock)]
    running = [psutil.Process(int(lock.read_text())) for lock in held_locks]
    for process in running:
        process.terminate()
    wait_until(lambda: not any(map(is_alive, running)), STOP_TIMEOUT_SECONDS, "the session's servers to stop")
    shutil.rmtree(session)


def shared_urls(name: str, *variables: str) -> dict[str, str]:
    """The URLs by environment variable. Starts the servers if necessary."""
    session = Path(os.environ[SESSION])
    directory = session / name
    env = directory / "run" / "env"
    with _exclusive(session / f"{name}.lock"):
        if not env.exists():
            with (session / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "infrastructure.embedded", "--data", str(directory)),
                        *("--only", *variables, "--until", os.environ[LEADER], "--remove"),
                    ],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            wait_until(lambda: env.exists() or process.poll() is not None, START_TIMEOUT_SECONDS, f"{name} to start")
            if process.poll() is not None:
                raise RuntimeError((session / f"{name}.log").read_text())
            process.returncode = 0  # otherwise Popen would warn
    return {variable: value for variable, value in dotenv_values(env).items() if value is not None}


class WorkerDatabases:
    def __init__(self, urls: Mapping[str, str]) -> None:
        self._database = f"conversations_{WORKER}"
        self._admin_url = urls["POSTGRES_URL"]
        self.postgres_url = _with_path(urls["POSTGRES_URL"], self._database)
        self.mongodb_url = _with_path(urls["MONGODB_URL"], self._database)
        self.redis_url = _with_path(urls["REDIS_URL"], str(_worker_number()))
        self._tables: list[str] = []
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(self.mongodb_url)

    def close(self) -> None:
        self._mongo.close()

    def clean(self) -> None:
        """Empties the databases. Also ends open connections to Postgres."""
        if not self._tables:
            self._create()
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            tables = _tables(connection)
            if tables == self._tables:
                connection.execute(EMPTY_TABLES)
        if tables != self._tables:
            self._create()
        mongo = self._mongo[self._database]
        for collection in mongo.list_collection_names(
            filter={"type": "collection", "name": {"$not": {"$regex": "^system"}}}
        ):
            mongo[collection].delete_many({})
        with Redis.from_url(self.redis_url) as client:
            client.flushdb()

    def _create(self) -> None:
        name = sql.Identifier(self._database)
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        migrate(self.postgres_url)
        with psycopg.connect(self.postgres_url) as connection:
            self._tables = _tables(connection)


def empty_databases(urls: Mapping[str, str]) -> dict[str, str]:
    """Makes empty databases for a whole system. Returns the URLs by environment variable."""
    name = f"system_{WORKER}"
    with psycopg.connect(urls["POSTGRES_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    paths = {"POSTGRES_URL": name, "MONGODB_URL": name, "REDIS_URL": str(FIRST_SYSTEM_REDIS + _worker_number())}
    ours = {variable: _with_path(urls[variable], path) for variable, path in paths.items()}
    mongo: MongoClient[dict[str, Any]]
    with MongoClient(ours["MONGODB_URL"]) as mongo:
        mongo.drop_database(name)
    with Redis.from_url(ours["REDIS_URL"]) as redis:
        redis.flushdb()
    return ours


def wait_until(
    condition: Callable[[], object], seconds: float, what: str, so_far: Callable[[], str] = lambda: ""
) -> None:
    """Raises TimeoutError with `what` and `so_far()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}\n{so_far()}")
        time.sleep(0.02)


async def wait_until_async(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Like `wait_until`, but other tasks run meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - no event says what another process has done
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise TimeoutError(f"waited {seconds:.0f} s for {what}") from error


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tables(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT schemaname || '.' || tablename FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
    return [name for (name,) in rows]


def _worker_number() -> int:
    return int(WORKER.removeprefix("gw")) + 1 if WORKER.startswith("gw") else 0


def _with_path(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=f"/{path}").geturl()
