"""Runs one API process. Each of its ports serves the command side and the query side.

With `--fd N` it serves on a listening socket that it inherits from `scripts/up`, so that new connections wait in the socket's queue
while the process is restarted. Without `--fd` it binds HOST and PORT.
"""

import argparse
import socket
import threading

from infrastructure.http.connections import Connections
from infrastructure.http.serve import serve
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from scripts.gateway import create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fd", type=int, action="append", help="descriptor of a listening socket to serve on; may be repeated"
    )
    inherited: list[int] = parser.parse_args().fd or []
    settings = Settings()
    shutdown, metrics, connections = threading.Event(), Metrics(), Connections()
    configure_logging("api", settings.log_level, settings.log_format, settings.secrets)
    app = create_app(settings, metrics, shutdown, connections)
    serve(app, settings, metrics, shutdown, connections, sockets=[socket.socket(fileno=fd) for fd in inherited])


if __name__ == "__main__":
    main()
