"""A store for tests that start, stop and kill its processes one by one. No supervisor restarts them."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dotenv import dotenv_values

from infrastructure.embedded.logs import last_lines
from infrastructure.embedded.service import answers_http, launch_command
from infrastructure.settings import Settings
from tests.end_to_end.postgres_pair import PostgresPair
from tests.fixtures.facts import ENVIRONMENT
from tests.servers import ROOT, port_to_keep, wait_until

START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 30.0
LOG_LINES = 12


class StoreProcess:
    def __init__(self, name: str, module: str, url: str, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.url = url
        self._command = (sys.executable, "-P", "-m", module)
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Fails if the process ended by itself."""
        process = self._process
        if process is None:
            return False
        assert process.poll() is None, f"{self.name} ended by itself:\n{self.log()}"
        return True

    def wait_until_serving(self) -> None:
        """Returns when the process answers. It may still be unready."""
        url = f"{self.url}/health/live"
        wait_until(
            lambda: self.is_running and answers_http(url, frozenset({200})),
            START_TIMEOUT_SECONDS,
            f"{self.name} to serve",
            self.log,
        )

    def start(self) -> None:
        """Call this in the main thread, because the process ends with the thread that started it."""
        if self._process is None:
            command = launch_command(self._command, os.getpid(), signal.SIGKILL, None)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signum)
            process.wait(STOP_TIMEOUT_SECONDS)

    def log(self) -> str:
        return f"{self.name}:\n{last_lines(self._log, LOG_LINES)}"


class StoreProcesses:
    def __init__(self, path: Path, provider_url: str) -> None:
        self._path = path
        self.postgres = PostgresPair(path)
        self._stores = _start_stores(path / "stores")
        urls = {name: value for name, value in dotenv_values(path / "stores" / "run" / "env").items() if value}
        urls["POSTGRES_URL"] = self.postgres.url
        self.settings = Settings(
            postgres_url=self.postgres.url, mongodb_url=urls["MONGODB_URL"], redis_url=urls["REDIS_URL"]
        )
        own = {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": provider_url, "LOG_LEVEL": "WARNING"}
        self._environment = {**os.environ, **ENVIRONMENT, **urls, **own}
        self.apis = [self._process(f"api-{n}", "scripts.api", "PORT") for n in (1, 2)]
        self.projectors = [self._process(f"projector-{n}", "projections.main", "METRICS_PORT") for n in (1, 2)]

    @property
    def all(self) -> Sequence[StoreProcess]:
        return [*self.apis, *self.projectors]

    def start(self) -> None:
        for process in self.all:
            process.start()
        for process in self.all:
            process.wait_until_serving()

    def close(self) -> None:
        for process in self.all:
            process.stop(signal.SIGKILL)
        self._stores.terminate()
        self._stores.wait(STOP_TIMEOUT_SECONDS)
        self.postgres.close()

    def logs(self) -> str:
        return "\n".join(process.log() for process in self.all)

    def _process(self, name: str, module: str, port_variable: str) -> StoreProcess:
        port = port_to_keep()
        environment = {**self._environment, "HOST": "127.0.0.1", port_variable: str(port)}
        return StoreProcess(name, module, f"http://127.0.0.1:{port}", self._path / f"{name}.log", environment)


def _start_stores(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "infrastructure.embedded", "--data", str(directory)]
    log = directory.with_name("stores.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--only", "MONGODB_URL", "REDIS_URL", "--until", str(os.getpid())],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    env = directory / "run" / "env"
    wait_until(lambda: env.exists() or process.poll() is not None, START_TIMEOUT_SECONDS, "the stores", log.read_text)
    return process
