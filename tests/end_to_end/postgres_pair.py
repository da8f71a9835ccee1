"""A primary Postgres and its standby.

`PostgresPair.url` names both ports. libpq connects to the primary.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from infrastructure.embedded.directory import DataDirectory, write_private
from infrastructure.embedded.postgres import DATABASE, postgres
from tests.fixtures.postgres_tools import program
from tests.servers import port_to_keep, wait_until

START_TIMEOUT_SECONDS = 60.0


class PostgresServer:
    def __init__(self, path: Path, secret: str) -> None:
        self.directory = DataDirectory(path)
        self.directory.lock()
        write_private(self.directory.path / "secret", secret + "\n")
        write_private(self.directory.run / "ports.json", json.dumps({"postgres": port_to_keep()}))
        self.data = self.directory.path / "postgres"
        self._service, self.url = postgres(self.directory)
        self.port = self.directory.port("postgres")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Call this in the main thread, because the server ends with the thread that started it."""
        self._service.prepare()
        with self.directory.log_file("postgres").open("ab") as log:
            self._process = subprocess.Popen(
                self._service.launch_command(os.getpid()),
                cwd=self._service.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._service.serves, START_TIMEOUT_SECONDS, "Postgres to start", self.log)

    def stop(self, signum: signal.Signals = signal.SIGINT) -> None:
        """SIGINT stops the server in an orderly way. SIGQUIT is like a crash."""
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait(START_TIMEOUT_SECONDS)
            self._process = None

    def log(self) -> str:
        return self.directory.log_file("postgres").read_text()

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        self.directory.unlock()
        shutil.rmtree(self.directory.path)


class PostgresPair:
    def __init__(self, path: Path) -> None:
        secret = os.urandom(16).hex()
        self.primary, self.other = (PostgresServer(path / name, secret) for name in ("a", "b"))
        ports = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.other.port}"
        self.url = f"postgresql://postgres:{secret}@{ports}/{DATABASE}?target_session_attrs=primary&connect_timeout=3"
        self.primary.start()

    def close(self) -> None:
        self.primary.close()
        self.other.close()

    def dump(self, file: Path) -> None:
        _run("pg_dump", "--format=custom", "--no-owner", f"--file={file}", self.primary.url)

    def restore(self, file: Path) -> None:
        """Restores the dump in one transaction. Other processes may be connected."""
        flags = ("--clean", "--if-exists", "--single-transaction", "--no-owner")
        _run("pg_restore", *flags, f"--dbname={self.primary.url}", str(file))

    def start_standby(self) -> PostgresServer:
        """Returns when the standby has caught up."""
        standby = self.other
        standby.stop(signal.SIGQUIT)
        shutil.rmtree(standby.data, ignore_errors=True)
        flags = (f"--pgdata={standby.data}", "--checkpoint=fast", "--write-recovery-conf", "--no-sync")
        _run("pg_basebackup", *flags, f"--dbname={self.primary.url}")
        standby.start()
        [(end,)] = self.primary.execute("SELECT pg_current_wal_flush_lsn()")
        reached = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s, false)"
        wait_until(
            lambda: standby.execute(reached, end) == [(True,)],
            START_TIMEOUT_SECONDS,
            "the standby to catch up",
            standby.log,
        )
        return standby

    def cut_off_standby(self) -> None:
        """Returns when the standby has replayed the WAL that it had received."""
        standby = self.other
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        # The received WAL can end in the middle of a record. This record is never replayed. So this waits until the
        # replay has nothing to do.
        idle = (
            "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver) AND EXISTS (SELECT FROM pg_stat_activity"
            " WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval')"
        )
        wait_until(
            lambda: standby.execute(idle) == [(True,)],
            START_TIMEOUT_SECONDS,
            "the standby to replay the WAL that it had received",
            standby.log,
        )

    def fail_over(self) -> None:
        self.primary.stop(signal.SIGQUIT)
        self.other.execute("SELECT pg_promote()")
        self.primary, self.other = self.other, self.primary


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
