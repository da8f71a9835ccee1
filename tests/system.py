"""Runs `scripts/up` as a process, with its own directory and port."""

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

READY_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 60.0
MARK = "CONVERSATION_STORE_TEST_SYSTEM"
# If one of these variables is set, `scripts/up` uses that server.
SERVERS = ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL", "OPENAI_BASE_URL")


class System:
    """Runs `scripts/up` in our environment without SERVERS, plus `environment`."""

    def __init__(
        self, data: Path, *arguments: str, port: int = 0, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.data = data
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._command = [str(ROOT / "scripts" / "up"), "--port", str(self.port), "--data", str(data), *arguments]
        self._mark = uuid.uuid4().hex
        self.output_file = data.with_name(f"{data.name}-{self._mark}.out")
        inherited = {name: value for name, value in os.environ.items() if name not in SERVERS}
        self._environment = {**inherited, **environment, MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Returns when the system is ready."""
        self.launch()
        wait_until(
            lambda: self.returncode() is not None or "Ready." in self.output(),
            READY_TIMEOUT_SECONDS,
            "scripts/up to be ready",
            self.output,
        )
        if self.returncode() is not None:
            raise RuntimeError(f"scripts/up ended with status {self.returncode()}:\n{self.output()}")
        return self

    def launch(self) -> None:
        """Returns at once."""
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def supervisor(self) -> int:
        """The pid of the supervisor, which handles SIGTERM."""
        assert self._process is not None
        return self._process.pid

    def returncode(self) -> int | None:
        """None while `scripts/up` runs."""
        assert self._process is not None
        return self._process.poll()

    def wait(self, seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def env(self) -> dict[str, str]:
        return {name: value for name, value in dotenv_values(self.data / "run" / "env").items() if value is not None}

    def pid(self, name: str) -> int:
        """The pid of a child: postgres, mongod, valkey, model, api, api-2, projector …"""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> int:
        """Returns the child's pid."""
        pid = self.pid(name)
        os.kill(pid, signum)
        return pid

    def wait_restarted(self, name: str, old_pid: int, seconds: float = 30.0) -> int:
        """Returns the child's new pid. The child may not serve yet."""
        file = self.data / "run" / f"{name}.pid"

        def restarted() -> bool:
            return file.exists() and int(file.read_text()) != old_pid

        wait_until(restarted, seconds, f"{name} to be restarted")
        return self.pid(name)

    def wait_ready(self, seconds: float = 30.0) -> None:
        url = f"{self.base_url}/health/ready"
        wait_until(lambda: answers_http(url, frozenset({200})), seconds, f"{url} to answer 200")

    def processes(self) -> list[psutil.Process]:
        """Finds processes by the system's mark in their environment, or by their working directory."""
        return [process for process in psutil.process_iter() if is_alive(process) and self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark or Path(process.cwd()).is_relative_to(self.data.resolve())
        except (psutil.Error, OSError):
            return False

    def wait_gone(self, seconds: float = 15.0) -> None:
        wait_until(lambda: not self.processes(), seconds, "every process of the system to end")

    def stop(self) -> None:
        """Stops `scripts/up`. Fails if the stop gives another status than 0, or if a process is left."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            status = self._process.wait(STOP_TIMEOUT_SECONDS)
            assert status == 0, f"scripts/up ended with status {status}:\n{self.output()}"
        left = self.processes()
        for process in left:
            process.kill()
        assert not left, f"scripts/up left {left}:\n{self.output()}"
        self._process = None
