"""An embedded Postgres with a wall clock that a test can set wrong.

libfaketime, preloaded into Postgres, reads the offset from a file at every call.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from infrastructure.embedded.directory import DataDirectory
from infrastructure.embedded.postgres import postgres
from infrastructure.embedded.supervisor import Supervisor

LIBFAKETIME = os.environ.get("LIBFAKETIME") or next(
    map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None
)
MAX_ERROR_SECONDS = 0.5


class PostgresClock:
    def __init__(self, url: str, directory: DataDirectory, offset_file: Path) -> None:
        self.url = url
        self._directory = directory
        self._offset_file = offset_file

    async def step(self, seconds: int) -> None:
        """Makes the clock of Postgres wrong by `seconds`."""
        self._write(seconds)
        assert abs(await self._error() - seconds) < MAX_ERROR_SECONDS, (
            "libfaketime has no effect, or Postgres answers too slowly: the test proves nothing"
        )

    async def restart(self, seconds: int) -> None:
        """Kills Postgres. The supervisor starts it again, with a clock that is wrong by `seconds`."""
        os.kill(int(self._directory.pid_file("postgres").read_text()), signal.SIGKILL)
        self._write(seconds)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert abs(await self._error() - seconds) < MAX_ERROR_SECONDS
                except psycopg.OperationalError:
                    await asyncio.sleep(0.05)
                else:
                    return

    def _write(self, seconds: int) -> None:
        draft = self._offset_file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.chmod(0o644)  # Postgres may run as another user
        draft.rename(self._offset_file)

    async def _error(self) -> float:
        """How many seconds the clock of Postgres is ahead."""
        async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=2) as connection:
            row = await (await connection.execute("SELECT extract(epoch FROM clock_timestamp())")).fetchone()
        assert row is not None
        return float(row[0]) - time.time()


@asynccontextmanager
async def postgres_with_clock() -> AsyncIterator[PostgresClock]:
    with TemporaryDirectory(prefix="conversation-store-clock-") as path:
        os.chmod(path, 0o755)  # noqa: PTH101 - Postgres may run as another user
        directory, offset_file = DataDirectory(Path(path, "data")), Path(path, "offset")
        directory.lock()
        service, url = postgres(directory)
        preload = {
            "LD_PRELOAD": LIBFAKETIME,
            "FAKETIME_TIMESTAMP_FILE": offset_file,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        command = ("/usr/bin/env", *(f"{name}={value}" for name, value in preload.items()), *service.command)
        service = replace(service, command=command)
        clock = PostgresClock(url, directory, offset_file)
        clock._write(0)
        supervisor = Supervisor(directory, os.environ)
        try:
            supervisor.start([service])
            await supervisor.wait_until_serving([service])
            yield clock
        finally:
            await supervisor.stop([[service]])
            directory.unlock()
