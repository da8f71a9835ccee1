"""Starts a new store for a benchmark: `scripts/up` of a checkout, in a new directory and on a free port.

An older checkout must work too.
"""

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from types import MappingProxyType
from typing import Any, LiteralString

import msgspec
import psutil
import psycopg
from dotenv import dotenv_values
from psycopg import sql
from pymongo import MongoClient
from pymongo.database import Database

from infrastructure.embedded.service import launch_command

STOP_TIMEOUT_SECONDS = 60.0
_REMOVED_VARIABLES = (
    "POSTGRES_URL",
    "MONGODB_URL",
    "REDIS_URL",
    "OPENAI_BASE_URL",
    "BASE_URL",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_POSTGRES_SETTINGS: tuple[LiteralString, ...] = ("server_version", "fsync", "full_page_writes", "synchronous_commit")


class DidNotStart(Exception):
    """The message is what `scripts/up` wrote to stderr."""


@dataclass(frozen=True, eq=False)
class BenchStore:
    """A store that runs. `env`: the variables in `run/env`."""

    checkout: Path
    data: Path
    env: Mapping[str, str]

    @property
    def base_url(self) -> str:
        return self.env["BASE_URL"].rstrip("/")

    @property
    def postgres_url(self) -> str:
        return self.env["POSTGRES_URL"]

    @contextmanager
    def mongodb(self) -> Iterator[Database[dict[str, Any]]]:
        with MongoClient[dict[str, Any]](self.env["MONGODB_URL"]) as client:
            yield client.get_default_database()

    def api_process(self) -> psutil.Process:
        return psutil.Process(int((self.data / "run" / "api.pid").read_text()))

    def url_with_key(self, tenant: str, subject: str, scopes: str = "read,write,reply") -> str:
        """Makes an API key, and puts it into the store's URL. Raises subprocess.CalledProcessError."""
        options = ("create", "--tenant", tenant, "--subject", subject, "--scopes", scopes)
        command = self.script("scripts.keys", *options)
        done = subprocess.run(command, env=self.script_environment(), capture_output=True, check=True)  # noqa: S603 - our own command
        scheme, _, address = self.base_url.partition("://")
        return f"{scheme}://{msgspec.json.decode(done.stdout)['secret']}@{address.rpartition('@')[2]}"

    def script(self, name: str, *arguments: str) -> list[str]:
        """The command line of a script of the checkout."""
        return [
            str(self.checkout / ".venv/bin/python"),
            "-P",
            "-m",
            name,
            *arguments,
            "--data",
            str(self.data),
            "--json",
        ]

    def script_environment(self) -> dict[str, str]:
        return {**_environment(), "PYTHONPATH": str(self.checkout)}


@contextmanager
def bench_store(
    checkout: Path, provider_url: str, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[BenchStore]:
    """Starts a store, and removes it at the end. Raises DidNotStart.

    With `AUTH_MODE=keys`, the user name in `base_url` is an API key.
    """
    with tempfile.TemporaryDirectory(prefix="conversation-store-bench-") as directory:
        data, log = Path(directory) / "data", Path(directory) / "up.log"
        up = (str(checkout / "scripts" / "up"), "--port", "0", "--data", str(data))
        with (
            log.open("w") as messages,
            subprocess.Popen(  # noqa: S603 - our own script
                launch_command(up, os.getpid(), SIGTERM, None),  # so it is stopped even if this process is killed
                env={**_environment(), "OPENAI_BASE_URL": f"{provider_url}/v1", **settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the store
            ) as process,
        ):
            try:
                assert process.stdout is not None
                if not any(line.startswith("Ready.") for line in process.stdout):
                    raise DidNotStart(log.read_text())
                variables = {name: value or "" for name, value in dotenv_values(data / "run" / "env").items()}
                store = BenchStore(checkout, data, variables)
                if settings.get("AUTH_MODE") == "keys":
                    variables["BASE_URL"] = store.url_with_key("bench", "bench")
                yield store
            finally:
                process.terminate()
                process.communicate(timeout=STOP_TIMEOUT_SECONDS)


def _environment() -> dict[str, str]:
    """The environment without the variables that name other servers or other code."""
    return {name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES}


def commit_of(checkout: Path) -> str:
    """The commit, with `-dirty` if there are uncommitted changes."""
    command = ("git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return done.stdout.strip() or "not a git checkout"


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def durability(store: BenchStore) -> dict[str, Any]:
    """The versions of the databases, and the settings that decide which data survives a power cut."""
    settings: dict[str, Any] = {}
    with psycopg.connect(store.postgres_url) as connection:
        for name in _POSTGRES_SETTINGS:
            [settings[f"postgres.{name}"]] = connection.execute(
                sql.SQL("SHOW {}").format(sql.Identifier(name))
            ).fetchone() or [None]
    with store.mongodb() as database:
        options = database.client.admin.command("getCmdLineOpts")["parsed"]
        settings["mongodb.version"] = database.client.server_info()["version"]
        settings["mongodb.journal"] = options.get("storage", {}).get("journal", {}).get("enabled", True)
    return settings
