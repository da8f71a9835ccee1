"""`serve`: running streams at SIGTERM, and the limit of open files."""

import http.client
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

from infrastructure.http.serve import OPEN_FILES
from tests.servers import ROOT

APP = """
import asyncio, socket, sys, threading
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from infrastructure.http.connections import Connections
from infrastructure.http.serve import serve
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings

shutdown = threading.Event()

async def stream(_):
    async def chunks():
        yield b"first"
        while not shutdown.is_set():
            await asyncio.sleep(0.01)
        yield b"last"
    return StreamingResponse(chunks())

listener = socket.socket(fileno=int(sys.argv[1]))
serve(Starlette(routes=[Route("/", stream)]), Settings(), Metrics(), shutdown, Connections(), sockets=[listener])
"""


def test_a_running_stream_sends_its_last_chunk_at_sigterm() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-P", "-c", APP, str(listener.fileno())]
        with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, pass_fds=[listener.fileno()]) as process:
            connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=20)
            connection.request("GET", "/")
            response = connection.getresponse()
            assert response.read(5) == b"first"
            process.send_signal(signal.SIGTERM)
            assert response.read() == b"last"
            connection.close()
            assert process.wait(10) in (0, -signal.SIGTERM)


def test_the_soft_limit_of_open_files_is_raised() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-P", "-c", APP, str(listener.fileno())]
        with subprocess.Popen(
            command,
            env={"PYTHONPATH": str(ROOT)},
            pass_fds=[listener.fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)),  # noqa: PLW1509 - the test has no threads
        ) as process:
            connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().read(5) == b"first"
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            process.kill()
            connection.close()
    [soft] = [line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(soft) == min(hard, OPEN_FILES)
