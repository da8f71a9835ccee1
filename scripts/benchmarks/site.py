"""Where it is measured: a store started for it by `scripts/up` (or one that runs), the floors beside it, and what both run on."""

import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from signal import SIGTERM
from typing import Any, LiteralString

import psutil
import psycopg
from dotenv import dotenv_values
from psycopg import sql
from pymongo import MongoClient
from redis import Redis

from infrastructure.embedded.service import launched
from infrastructure.event_log.migrate import migrate
from infrastructure.settings import Settings
from infrastructure.stores import mongodb

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_SECONDS = 60.0
_SERVERS = ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL", "OPENAI_BASE_URL", "BASE_URL")
_POSTGRES_SETTINGS: tuple[LiteralString, ...] = ("fsync", "full_page_writes", "synchronous_commit", "wal_sync_method")


class DidNotStart(Exception):
    """`scripts/up` ended instead of getting ready; what it said is the message."""


@contextmanager
def own_store(*arguments: str, provider: str | None = None) -> Iterator[Path]:
    """Starts a store on a new directory and a free port; yields the directory, which is removed at the end. Without a `provider`, no model.

    `arguments` are more of those of `scripts/up`.
    """
    with tempfile.TemporaryDirectory(prefix="conversation-store-bench-") as place:
        data = Path(place) / "data"
        up = (str(ROOT / "scripts" / "up"), "--port", "0", "--data", str(data), *arguments)
        up = (*up, "--no-model") if provider is None else up
        command = launched(up, os.getpid(), SIGTERM, None)  # it ends with us, however we end
        outside = {name: value for name, value in os.environ.items() if name not in _SERVERS}
        if provider is not None:
            outside["OPENAI_BASE_URL"] = f"{provider}/v1"
        with subprocess.Popen(  # noqa: S603 - our own script
            command,
            env=outside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we stop it in order
        ) as process:
            try:
                assert process.stdout is not None
                said: list[str] = []
                for line in process.stdout:
                    said.append(line)
                    if line.startswith("Ready."):
                        break
                else:
                    raise DidNotStart("".join(said))
                yield data
            finally:
                process.terminate()
                process.communicate(timeout=STOP_SECONDS)


def api_urls(data: Path) -> list[str]:
    """Where each api process of the store answers by itself."""
    return _known(data, r"API_\d+_URL")


def projector_metrics(data: Path) -> list[str]:
    """Where each projector of the store shows its metrics."""
    return _known(data, r"PROJECTOR_\d+_METRICS_URL")


def _known(data: Path, names: str) -> list[str]:
    known = dotenv_values(data / "run" / "env")
    return [url for name, url in sorted(known.items()) if url and re.fullmatch(names, name)]


@contextmanager
def floor_server(name: str, settings: Settings | None = None) -> Iterator[str]:
    """Starts a floor, `scripts.benchmarks.NAME`; yields its URL. Connections wait in its socket until it serves.

    With `settings` on those stores.
    """
    stores = {"POSTGRES_URL": settings.postgres_url, "REDIS_URL": settings.redis_url} if settings else {}
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        command = (sys.executable, "-P", "-m", f"scripts.benchmarks.{name}", str(listener.fileno()))
        env = {**child_environment(), **stores}
        with subprocess.Popen(command, env=env, pass_fds=(listener.fileno(),)) as process:  # noqa: S603 - our own
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                process.terminate()


def child_environment() -> dict[str, str]:
    """The environment in which a Python process finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def scratch_database(settings: Settings) -> Iterator[str]:
    """A migrated database in the store's own Postgres, dropped at the end; yields its URL."""
    name = f"bench_{os.getpid()}"
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = psycopg.conninfo.make_conninfo(settings.postgres_url, dbname=name)
            migrate(url)
            yield url
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def machine() -> dict[str, Any]:
    """What it runs on."""
    packages = ("fastapi", "uvicorn", "uvloop", "pydantic", "psycopg", "eventsourcing", "pymongo")
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def durability(settings: Settings) -> dict[str, Any]:
    """What the servers themselves say about what survives a power cut, and the write concern that the projector writes with."""
    found: dict[str, Any] = {}
    with psycopg.connect(settings.postgres_url) as connection:
        for name in ("server_version", *_POSTGRES_SETTINGS):
            [value] = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone() or [None]
            found[f"postgres.{name}"] = value
    writes = mongodb.connect(settings).write_concern.document
    with MongoClient[dict[str, Any]](settings.mongodb_url) as client:
        options = client.admin.command("getCmdLineOpts")["parsed"]
        found["mongodb.version"] = client.server_info()["version"]
        found["mongodb.journal"] = options.get("storage", {}).get("journal", {}).get("enabled", True)
        found["mongodb.engine"] = client.admin.command("serverStatus")["storageEngine"]["name"]
        found["mongodb.write_concern"] = ", ".join(f"{name}={value}" for name, value in writes.items())
    with Redis.from_url(settings.redis_url, decode_responses=True) as redis:
        info = redis.info("server")
        found["redis.version"] = info.get("valkey_version") or info["redis_version"]
        for name in ("save", "appendonly"):
            found[f"redis.{name}"] = redis.config_get(name)[name] or "never"
    return found


def process(data: Path, name: str) -> psutil.Process:
    """A process of the store."""
    return psutil.Process(int((data / "run" / f"{name}.pid").read_text()))


def memory(data: Path) -> dict[str, dict[str, int]]:
    """Bytes by process of `scripts/up`, with its children: RSS, which counts shared pages for each, and PSS, which shares them out."""
    used: dict[str, dict[str, int]] = {}
    for file in sorted((data / "run").glob("*.pid")):
        process = psutil.Process(int(file.read_text()))
        infos = [each.memory_full_info() for each in (process, *process.children(recursive=True))]
        used[file.stem] = {
            "rss": sum(info.rss for info in infos),
            "pss": sum(getattr(info, "pss", info.rss) for info in infos),
            "processes": len(infos),
        }
    return used
