"""What the supervisor needs to know of one child process. Imported within this package, by `scripts/up.py` and the tests."""

import http.client
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

LAUNCH = Path(__file__).with_name("launch.py")


class NotInstalledError(RuntimeError):
    """A wheel with a server is not there on this platform; the message says what to do instead."""


@dataclass(frozen=True)
class Account:
    """The user a child runs as instead of root, and the one capability it keeps, if any."""

    uid: int
    gid: int
    capability: int | None = None

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}:{'' if self.capability is None else self.capability}"


def _nothing() -> None:
    """No preparation is needed."""


@dataclass(frozen=True)
class Service:
    """One child: how it starts, when it serves, how it stops.

    `prepare` runs before every start and may block. `serves` answers within about two seconds; it is asked again until it
    says yes. Both run in threads. `orphan_signal` is what the kernel sends when the supervisor is killed.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    serves: Callable[[], bool]
    prepare: Callable[[], None] = _nothing
    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: tuple[int, ...] = ()
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    orphan_signal: signal.Signals = signal.SIGKILL

    def launched_by(self, parent: int) -> list[str]:
        return launched(self.command, parent, self.orphan_signal, self.account)


def launched(
    command: tuple[str, ...], parent: int, orphan_signal: signal.Signals, account: Account | None
) -> list[str]:
    """The command line that becomes `command`, tied to the life of `parent` and as `account`."""
    user = str(account) if account else ""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(parent), str(int(orphan_signal)), user, *command]


def end_strays(executable: Path, directory: Path, patience: float = 10.0) -> None:
    """Waits for, then kills, processes of this executable that work in this directory: what a killed parent left behind."""
    strays = _strays(executable.resolve(), directory.resolve())
    _, stubborn = psutil.wait_procs(strays, timeout=patience)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(stubborn, timeout=patience)
    if alive:
        raise RuntimeError(f"{executable.name} still runs in {directory}: pids {[process.pid for process in alive]}")


def _strays(executable: Path, directory: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["exe", "cwd"])
        if process.info["exe"] == str(executable) and process.info["cwd"] == str(directory)
    ]


def accepts(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_http(url: str, expected: frozenset[int] | None = None) -> bool:
    """Whether GET `url` is answered within two seconds, with one of the expected statuses where they are given."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return expected is None or status in expected
