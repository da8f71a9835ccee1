"""Runs the query API in a process of its own, to measure its memory. Also opens streams that are not read."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from infrastructure.embedded.directory import free_port
from infrastructure.settings import Settings
from tests.servers import ROOT


@asynccontextmanager
async def query_process(settings: Settings) -> AsyncIterator[tuple[str, int]]:
    """Yields the URL and the pid."""
    port = free_port()
    environment = {name.upper(): str(value) for name, value in settings.model_dump().items() if name.endswith("_url")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "queries.main",
        env={**os.environ, **environment, "PORT": str(port), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30), httpx.AsyncClient(base_url=url) as client:
            while True:
                try:
                    await client.get("/health/live")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        yield url, process.pid
    finally:
        process.kill()
        await process.wait()


def peak_memory(pid: int) -> int:
    """The largest resident memory, in bytes."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024


@contextmanager
def unread_streams(url: str, path: str, count: int) -> Iterator[list[socket.socket]]:
    """Opens streams with small receive buffers, and reads nothing from them."""
    address = urlsplit(url)
    sockets = []
    try:
        for _ in range(count):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.hostname, address.port))
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
            )
            sockets.append(connection)
        yield sockets
    finally:
        for connection in sockets:
            connection.close()
