"""One child process of the supervisor: its command, and how to check that it serves requests."""

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
    """The wheel of a server is not installed, or there is none for this platform. The message says what to do."""


class WillNotRunError(RuntimeError):
    """A child cannot run, and a restart would not help. The message says why."""


@dataclass(frozen=True)
class Account:
    """The user that a child runs as instead of root. `capability`: the capability that the child keeps, if any."""

    uid: int
    gid: int
    capability: int | None = None

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}:{'' if self.capability is None else self.capability}"


def _nothing() -> None:
    """Does nothing. This is the default of `Service.prepare`."""


@dataclass(frozen=True)
class Service:
    """One child: how it starts, how to check that it serves requests, and how it stops.

    `prepare` runs before every start and may block. If it raises WillNotRunError, the supervisor gives up. `serves`
    returns within about two seconds and is called again until it returns True. Both run in threads. The kernel sends
    `orphan_signal` to the child when the supervisor is killed. Only a service with `reads_settings` gets the
    supervisor's settings in its environment. The settings contain secrets, and Postgres may run as a user whose other
    processes could read the environment of Postgres.
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
    """The command line that runs `command` as `account`, and ends it when `parent` ends."""
    user = str(account) if account else ""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(parent), str(int(orphan_signal)), user, *command]


def end_strays(executable: Path, directory: Path, timeout: float = 10.0) -> None:
    """Waits for the end of processes that a killed parent left behind.

    They run `executable` in the working directory `directory`. Kills the processes that still run after `timeout`
    seconds. Raises RuntimeError if one still runs `timeout` seconds after that.
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
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_http(url: str, expected: frozenset[int] | None = None) -> bool:
    """Whether GET `url` is answered within two seconds with one of the `expected` statuses. None: any status."""
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
