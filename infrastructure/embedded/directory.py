"""The data directory of one supervisor.

DIR/postgres DIR/mongo DIR/valkey   the stores' data
DIR/secret                          the password of all three stores, created once
DIR/run/lock                        locked while a supervisor runs; contains its pid
DIR/run/<name>.pid, <name>.log      the pid and the log of each child process
DIR/run/ports.json                  the ports, for the next start
DIR/run/env                         dotenv: the URLs of everything that runs
"""

import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class InUseError(RuntimeError):
    pass


class DataDirectory:
    """Call `lock` before anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.run = self.path / "run"
        self.env_file = self.run / "env"
        self._lock_file = self.run / "lock"
        self._ports_file = self.run / "ports.json"
        self._secret_file = self.path / "secret"
        self._lock: int | None = None

    def lock(self) -> None:
        """Removes the run files of a killed supervisor. The kernel releases the lock when this process ends. Raises InUseError."""
        self.run.mkdir(parents=True, exist_ok=True)
        # Postgres may run as another user, who may pass through this directory but not list it.
        self.path.chmod(0o711)
        self.run.chmod(0o700)
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            holder = self._lock_file.read_text().strip() or "unknown"
            raise InUseError(
                f"{self.path} is in use by the process {holder}: stop it, or choose another directory with --data"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        self.remove_run_files()

    def remove_run_files(self) -> None:
        """Call this when no child runs."""
        for file in (self.env_file, *self.run.glob("*.pid")):
            file.unlink(missing_ok=True)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.run / f"{name}.log"

    def secret(self) -> str:
        """Raises RuntimeError if the file is missing although Postgres has data."""
        if not self._secret_file.exists():
            if (self.path / "postgres").exists():
                raise RuntimeError(
                    f"{self._secret_file} is missing. {self.path / 'postgres'} still uses the password in it: restore the file"
                )
            write_private(self._secret_file, secrets.token_hex(32) + "\n")
        return self._secret_file.read_text().strip()

    @property
    def secret_file(self) -> Path:
        self.secret()
        return self._secret_file

    def port(self, name: str) -> int:
        """The same port as last time, if it is free."""
        ports = self._saved_ports()
        ports_of_others = {port for child, port in ports.items() if child != name}
        if name not in ports or ports[name] in ports_of_others or not _is_free(ports[name]):
            ports[name] = free_port(avoid=ports_of_others)
            write_private(self._ports_file, json.dumps(ports, indent=1) + "\n")
        return ports[name]

    def _saved_ports(self) -> dict[str, int]:
        """Returns no ports if the file is missing or damaged."""
        try:
            saved = json.loads(self._ports_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        ports = saved if isinstance(saved, dict) else {}
        return {str(name): port for name, port in ports.items() if isinstance(port, int) and 0 < port < 65536}

    def write_env(self, values: Mapping[str, str]) -> None:
        write_private(self.env_file, "".join(f"{name}={value}\n" for name, value in values.items()))


def write_private(path: Path, text: str) -> None:
    """Replaces the file atomically. Its mode is 0600 from the start."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def free_port(avoid: set[int] | frozenset[int] = frozenset()) -> int:
    """A loopback port below the kernel's range for outgoing connections. Raises RuntimeError.

    Inside that range, a client that reconnects while the server is down could take the port. A range that starts below
    20,000 is ignored.
    """
    low = int(EPHEMERAL_RANGE.read_text().split()[0]) if EPHEMERAL_RANGE.exists() else 32768
    if low < 20_000:
        low = 32768
    for _ in range(1000):
        port = random.randrange(low - 10_000, low)  # noqa: S311 - a port is not a secret
        if port not in avoid and _is_free(port):
            return port
    raise RuntimeError(f"found no free port on 127.0.0.1 between {low - 10_000} and {low}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
