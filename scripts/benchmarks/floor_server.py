"""Starts the servers that the store is compared with, each in its own process."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import uvicorn
from starlette.types import ASGIApp

from scripts.benchmarks import ROOT


class FloorServer:
    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.process = psutil.Process(pid)


@contextmanager
def floor_server(name: str, environment: Mapping[str, str]) -> Iterator[FloorServer]:
    """Starts `scripts.benchmarks.NAME`. Connections wait in the socket until the server is ready."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        command = (sys.executable, "-P", "-m", f"scripts.benchmarks.{name}", str(listener.fileno()))
        env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=env, pass_fds=(listener.fileno(),)) as process:  # noqa: S603 - our own
            try:
                yield FloorServer(f"http://127.0.0.1:{listener.getsockname()[1]}", process.pid)
            finally:
                process.terminate()


def serve(app: ASGIApp, descriptor: int) -> None:
    """Serves like the store, but without limits, until SIGTERM."""
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", log_config=None, access_log=False, server_header=False
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])
