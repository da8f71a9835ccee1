"""The data directory of one `scripts/up`: its lock, its secret, the ports it remembers and the files of `run/`.

    DIR/postgres DIR/mongo DIR/valkey   the stores' data
    DIR/secret                          the password of all three, made once
    DIR/run/lock                        held while a supervisor runs; its pid is inside
    DIR/run/<name>.pid, <name>.log      of each child
    DIR/run/ports.json                  which port each child had, to give it the same again
    DIR/run/env                         dotenv: the URLs of all that runs

Imported by the rest of `infrastructure.embedded`, `scripts/up.py` and the tests.
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
    """Another supervisor holds this directory."""


class DataDirectory:
    """A directory that belongs to this process while it is open. `lock` first; everything else trusts that it was."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.run = self.path / "run"
        self.env_file = self.run / "env"
        self._lock_file = self.run / "lock"
        self._ports_file = self.run / "ports.json"
        self._secret_file = self.path / "secret"
        self._lock: int | None = None

    def lock(self) -> None:
        """Takes the directory for this process, and clears what a killed predecessor left in `run/`.

        Raises InUseError while another process has it. The kernel gives the lock back when a process ends, however it ends.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        # Others may pass through (Postgres may have to run as another user), but not look.
        self.path.chmod(0o711)
        self.run.chmod(0o700)
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            holder = self._lock_file.read_text().strip() or "unknown"
            raise InUseError(
                f"{self.path} is in use by the process {holder}: stop that one, or choose another directory with --data"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        self.forget()

    def forget(self) -> None:
        """Removes the pid files and the dotenv, which tell what runs now."""
        for stale in (self.env_file, *self.run.glob("*.pid")):
            stale.unlink(missing_ok=True)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.run / f"{name}.log"

    def secret(self) -> str:
        """64 hex digits, the same for the life of the directory."""
        if not self._secret_file.exists():
            if (self.path / "postgres").exists():
                raise RuntimeError(
                    f"{self._secret_file} is gone, but {self.path / 'postgres'} still has its password: put it back"
                )
            write_private(self._secret_file, secrets.token_hex(32) + "\n")
        return self._secret_file.read_text().strip()

    @property
    def secret_file(self) -> Path:
        self.secret()
        return self._secret_file

    def port(self, name: str) -> int:
        """The loopback port of the child `name`: the one it had before if that is free, else a new one."""
        ports = self._remembered_ports()
        taken = {port for other, port in ports.items() if other != name}
        if name not in ports or ports[name] in taken or not _is_free(ports[name]):
            ports[name] = free_port(avoid=taken)
            write_private(self._ports_file, json.dumps(ports, indent=1) + "\n")
        return ports[name]

    def _remembered_ports(self) -> dict[str, int]:
        """What `ports.json` says; nothing where it is gone or broken: it is only a memory."""
        try:
            found = json.loads(self._ports_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        remembered = found if isinstance(found, dict) else {}
        return {str(name): port for name, port in remembered.items() if isinstance(port, int) and 0 < port < 65536}

    def write_env(self, values: Mapping[str, str]) -> None:
        """Writes `run/env`, at once and readable by its owner alone."""
        write_private(self.env_file, "".join(f"{name}={value}\n" for name, value in values.items()))


def write_private(path: Path, text: str) -> None:
    """Replaces a file in one step, so that no reader sees half of it; its mode is 0600 from the start."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def free_port(avoid: set[int] | frozenset[int] = frozenset()) -> int:
    """A free loopback port below the range from which outgoing connections take theirs.

    Inside that range a client that keeps calling a server that is down can be handed the server's own port.
    """
    low = int(EPHEMERAL_RANGE.read_text().split()[0]) if EPHEMERAL_RANGE.exists() else 32768
    if low < 20_000:
        low = 32768
    for _ in range(1000):
        port = random.randrange(low - 10_000, low)  # noqa: S311 - a port is no secret
        if port not in avoid and _is_free(port):
            return port
    raise RuntimeError("no free port on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
