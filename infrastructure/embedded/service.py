"""A child process of the supervisor: its command and its checks."""

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
    """The server's Python package is not installed, or there is none for this platform."""


class WillNotRunError(RuntimeError):
    """A child cannot run, and a restart would not help."""


@dataclass(frozen=True)
class Account:
    """The user of a child. `capability`: a Linux capability that the child keeps."""

    uid: int
    gid: int
    capability: int | None = None

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}:{'' if self.capability is None else self.capability}"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Service:
    """A child process that the supervisor starts, and restarts when it ends.

    prepare         runs before every start, in a thread. After WillNotRunError the supervisor gives up
    serves          called in a thread, again and again, until it returns True
    orphan_signal   what the kernel sends to the child when the supervisor is killed
    reads_settings  whether the child gets the supervisor's settings, which contain secrets
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    serves: Callable[[], bool]
    prepare: Callable[[], None] = _nothing
    environment: Mapping[str, str] = field(default_factory=dict)
    reads_settings: bool = False
    sockets: tuple[int, ...] = ()
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    orphan_signal: signal.Signals = signal.SIGKILL

    def launch_command(self, parent: int) -> list[str]:
        return launch_command(self.command, parent, self.orphan_signal, self.account)


def launch_command(
    command: tuple[str, ...], parent: int, orphan_signal: signal.Signals, account: Account | None
) -> list[str]:
    """The command that starts the program through `launch.py`.

    Linux sends `orphan_signal` to the program when `parent` ends.
    """
    user = str(account) if account else ""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(parent), str(int(orphan_signal)), user, *command]


def end_strays(executable: Path, directory: Path, timeout: float = 10.0) -> None:
    """Waits for processes that a killed parent left behind, and kills these processes after `timeout` seconds.

    Raises RuntimeError if a process still runs after that.
    """
    strays = _strays(executable.resolve(), directory.resolve())
    _, remaining = psutil.wait_procs(strays, timeout=timeout)
    for process in remaining:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(remaining, timeout=timeout)
    if alive:
        raise RuntimeError(f"{executable.name} still runs in {directory}: pids {[process.pid for process in alive]}")


def _strays(executable: Path, directory: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["exe", "cwd"])
        if process.info["exe"] == str(executable) and process.info["cwd"] == str(directory)
    ]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_http(url: str, expected: frozenset[int] | None = None) -> bool:
    """Whether a GET is answered with one of the `expected` statuses. None: any status."""
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
