"""The whole system as its user runs it: `scripts/up` in a process of its own, on a directory and a port of its own."""

import os
import signal
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psutil
from dotenv import dotenv_values

from infrastructure.embedded.directory import free_port
from infrastructure.embedded.service import answers_http
from tests.servers import ROOT, is_alive, wait_until

READY_SECONDS = 90.0
STOP_SECONDS = 60.0
MARK = "CONVERSATION_STORE_TEST_SYSTEM"
# What the outside world may say, and a test should not hear.
SERVERS = ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL", "OPENAI_BASE_URL")


class System:
    """Starts, watches, hurts and stops one `scripts/up`. `environment` is added to that of the test, without its servers."""

    def __init__(
        self, data: Path, *arguments: str, port: int = 0, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.data = data
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._command = [str(ROOT / "scripts" / "up"), "--port", str(self.port), "--data", str(data), *arguments]
        self._mark = uuid.uuid4().hex
        self.output = data.with_name(f"{data.name}-{self._mark}.out")
        outside = {name: value for name, value in os.environ.items() if name not in SERVERS}
        self._environment = {**outside, **environment, MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Returns when the system is ready."""
        self.launch()
        wait_until(
            lambda: self.returncode() is not None or "Ready." in self.said(), READY_SECONDS, "scripts/up", self.said
        )
        if self.returncode() is not None:
            raise RuntimeError(f"scripts/up ended with status {self.returncode()}:\n{self.said()}")
        return self

    def launch(self) -> None:
        """Starts it and returns at once."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def supervisor(self) -> int:
        """The pid of the process that SIGTERM goes to."""
        assert self._process is not None
        return self._process.pid

    def returncode(self) -> int | None:
        """The status it ended with; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The status, once it has ended."""
        assert self._process is not None
        return self._process.wait(seconds)

    def said(self) -> str:
        """All it has written to its terminal."""
        return self.output.read_text()

    @property
    def env(self) -> dict[str, str]:
        """What `DIR/run/env` says now."""
        return {name: value for name, value in dotenv_values(self.data / "run" / "env").items() if value is not None}

    def pid(self, name: str) -> int:
        """The pid of a child: postgres, mongod, valkey, model, api, api-2, projector …"""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to a child and returns the pid it had."""
        pid = self.pid(name)
        os.kill(pid, signum)
        return pid

    def wait_restarted(self, name: str, old_pid: int, seconds: float = 30.0) -> int:
        """The new pid of a child that had `old_pid`. Whether it already serves, its clients know."""
        file = self.data / "run" / f"{name}.pid"

        def restarted() -> bool:
            return file.exists() and int(file.read_text()) != old_pid

        wait_until(restarted, seconds, f"{name} to be started again")
        return self.pid(name)

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Returns when /health/ready says 200."""
        url = f"{self.base_url}/health/ready"
        wait_until(lambda: answers_http(url, frozenset({200})), seconds, f"{url} to say 200")

    def processes(self) -> list[psutil.Process]:
        """All that run of it: those that carry its mark, or work in its data."""
        return [process for process in psutil.process_iter() if is_alive(process) and self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark or Path(process.cwd()).is_relative_to(self.data.resolve())
        except (psutil.Error, OSError):
            return False

    def wait_gone(self, seconds: float = 15.0) -> None:
        """Returns when no process of it is left."""
        wait_until(lambda: not self.processes(), seconds, "every process of the system to end")

    def stop(self) -> None:
        """SIGTERM, then nothing may be left. Does nothing when it has ended before."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            status = self._process.wait(STOP_SECONDS)
            assert status == 0, f"scripts/up ended with status {status}:\n{self.said()}"
        left = self.processes()
        for process in left:
            process.kill()
        assert not left, f"scripts/up left {left}:\n{self.said()}"
        self._process = None
