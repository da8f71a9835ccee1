"""One API process: both sides behind one port, served by uvicorn.

`python -m scripts.api [--fd N …]` serves on listening sockets that it inherits from `scripts/up`, so that connections wait
in their queue while the process is replaced; without `--fd` it binds HOST and PORT itself.
"""

import argparse
import socket
import threading

from infrastructure.http.serve import serve
from infrastructure.settings import Settings
from scripts.gateway import create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fd", type=int, action="append", help="a listening socket to serve on")
    inherited: list[int] = parser.parse_args().fd or []
    settings = Settings()
    shutdown = threading.Event()
    serve(create_app(settings, shutdown), settings, shutdown, [socket.socket(fileno=fd) for fd in inherited])


if __name__ == "__main__":
    main()
