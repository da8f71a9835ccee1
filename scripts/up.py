"""Runs the whole system on one machine: stores, model, APIs and projectors, under one supervisor.

SIGTERM or Ctrl-C stops everything. The data stays.
"""

import argparse
import asyncio
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from pydantic import ValidationError

from infrastructure.embedded.directory import DataDirectory
from infrastructure.embedded.lifetime import run_until, stop_signalled
from infrastructure.embedded.service import Service, WillNotRunError, answers_http
from infrastructure.embedded.stores import MODEL, STORES, choose
from infrastructure.embedded.supervisor import Supervisor
from infrastructure.event_log.migrate import DataIsNewer, check_migrations
from infrastructure.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
BACKLOG = 2048
PORT_TIMEOUT_SECONDS = 2.0
READY_PROBE_SECONDS = 0.05
NOT_READY_WARNING_SECONDS = 20.0

log = logging.getLogger("scripts.up")


class CannotListenError(RuntimeError):
    pass


async def run(arguments: argparse.Namespace, directory: DataDirectory, host: str) -> None:
    """Runs everything until a signal. Raises CannotListenError and the errors of `infrastructure/embedded`."""
    stop = stop_signalled()
    with ExitStack() as sockets:
        variables = STORES if arguments.no_model else STORES | MODEL
        stores, urls = choose(directory, os.environ, variables)
        gateway = sockets.enter_context(listen(host, arguments.port))
        port = gateway.getsockname()[1]
        base_url = f"http://{LOOPBACK}:{port}"
        environment = {**urls, "PYTHONPATH": str(ROOT), "HOST": host, "PORT": str(port)}
        apis, api_urls = _apis(arguments.apis, directory, gateway, environment, sockets)
        projectors, projector_urls = _projectors(arguments.projectors, directory, environment)
        supervisor = Supervisor(directory, os.environ)

        async def work() -> None:
            model = [service for service in stores if service.name == "model"]
            supervisor.start(stores)
            await supervisor.wait_until_serving([service for service in stores if service not in model])
            directory.write_env({**urls, "BASE_URL": base_url, **api_urls, **projector_urls})
            supervisor.start([*apis, *projectors])
            await supervisor.wait_until_serving([*apis, *projectors, *model])
            await _wait_until_ready(base_url)
            print(_table(directory, base_url, urls, api_urls, projector_urls), flush=True)
            await supervisor.wait_for_failure()

        try:
            await run_until(stop, work())
        finally:
            log.info("stopping")
            # The stores stop last, because the other services use them.
            await supervisor.stop([apis, projectors, *([store] for store in reversed(stores))])
            directory.remove_run_files()
            log.info("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Retries for PORT_TIMEOUT_SECONDS if the port is taken. A killed supervisor may be about to release the port.
    Raises CannotListenError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.monotonic() + PORT_TIMEOUT_SECONDS
    while True:
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(READY_PROBE_SECONDS)
                continue
            listener.close()
            raise CannotListenError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another port with --port, or another address with HOST"
            ) from error
        return listener


def _apis(
    count: int, directory: DataDirectory, gateway: socket.socket, environment: Mapping[str, str], sockets: ExitStack
) -> tuple[list[Service], dict[str, str]]:
    services: list[Service] = []
    urls: dict[str, str] = {}
    for number in range(1, count + 1):
        name = _name("api", number)
        own_socket = sockets.enter_context(listen(LOOPBACK, directory.port(name)))
        url = f"http://{LOOPBACK}:{own_socket.getsockname()[1]}"
        metrics_port = directory.port(f"{name}-metrics")
        urls |= {
            f"API_{number}_URL": url,
            f"API_{number}_METRICS_URL": f"http://{LOOPBACK}:{metrics_port}/metrics",
        }
        descriptors = (gateway.fileno(), own_socket.fileno())
        flags = [part for descriptor in descriptors for part in ("--fd", str(descriptor))]
        service = Service(
            name=name,
            command=(sys.executable, "-P", "-m", "scripts.api", *flags),
            directory=directory.path,
            serves=partial(answers_http, f"{url}/health/live", frozenset({200})),
            prepare=partial(refuse_newer_data, environment["POSTGRES_URL"]),
            reads_settings=True,
            environment={**environment, **metrics_on(metrics_port)},
            sockets=descriptors,
            stop_seconds=20,
        )
        services.append(service)
    return services, urls


def _projectors(
    count: int, directory: DataDirectory, environment: Mapping[str, str]
) -> tuple[list[Service], dict[str, str]]:
    services: list[Service] = []
    urls: dict[str, str] = {}
    for number in range(1, count + 1):
        name = _name("projector", number)
        port = directory.port(name)
        urls[f"PROJECTOR_{number}_METRICS_URL"] = f"http://{LOOPBACK}:{port}/metrics"
        service = Service(
            name=name,
            command=(sys.executable, "-P", "-m", "projections.main"),
            directory=directory.path,
            # Any status is accepted, because nothing waits until the projector is ready.
            serves=partial(answers_http, f"http://{LOOPBACK}:{port}/health/ready"),
            prepare=partial(refuse_newer_data, environment["POSTGRES_URL"]),
            reads_settings=True,
            environment={**environment, **metrics_on(port)},
        )
        services.append(service)
    return services, urls


def metrics_on(port: int) -> dict[str, str]:
    return {"METRICS_HOST": LOOPBACK, "METRICS_PORT": str(port)}


def refuse_newer_data(postgres_url: str) -> None:
    """Raises WillNotRunError if the data is newer than this code, because the process would exit at each start."""
    try:
        check_migrations(postgres_url)
    except DataIsNewer as error:
        raise WillNotRunError(str(error)) from error
    except psycopg.Error as error:
        log.debug("migrations not checked: %s", error)  # the process itself waits for Postgres


def _name(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}-{number}"


async def _wait_until_ready(base_url: str) -> None:
    warned_at = time.monotonic()
    while not await asyncio.to_thread(answers_http, f"{base_url}/health/ready", frozenset({200})):
        if time.monotonic() - warned_at > NOT_READY_WARNING_SECONDS:
            warned_at = time.monotonic()
            log.warning("not ready yet: see %s/health/ready", base_url)
        await asyncio.sleep(READY_PROBE_SECONDS)


def _table(directory: DataDirectory, base_url: str, *urls: Mapping[str, str]) -> str:
    rows = {"BASE_URL": base_url} | {name: url for part in urls for name, url in part.items()}
    lines = [f"  {name:<24} {without_credentials(url)}" for name, url in rows.items()]
    return "\n".join(
        [
            "Ready.",
            *lines,
            f"  {'URLs with passwords':<24} {directory.env_file}",
            f"  {'logs and pids':<24} {directory.run}",
            f"  {'documentation':<24} {base_url}/docs",
            "Ctrl-C stops everything. The data stays.",
        ]
    )


def without_credentials(url: str) -> str:
    """Hides the user, the password and the query. A query may contain a password too."""
    parts = urlsplit(url)
    if not parts.scheme:  # such as `host=db password=…`
        return "***"
    user, is_named, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'***@' if user or is_named else ''}{host}{parts.path}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"the number must be at least 1, not {number}")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"a port must be 0 to 65535, not {number}")
    return number


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=_port, default=8000, help="the port for clients (8000); 0 takes a free one")
    parser.add_argument("--data", type=Path, default=Path(".data"), metavar="DIR", help="the data directory (./.data)")
    parser.add_argument("--no-model", action="store_true", help="do not start the local model")
    parser.add_argument("--apis", type=_positive, default=1, metavar="N", help="number of API processes (1)")
    parser.add_argument(
        "--projectors", type=_positive, default=1, metavar="N", help="number of projector processes (1)"
    )
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    directory = DataDirectory(arguments.data)
    try:
        host = Settings().host
        directory.lock()
        _log_to(directory.log_file("supervisor"))
        asyncio.run(run(arguments, directory, host))
    except (ValidationError, RuntimeError, OSError) as error:
        print(f"scripts/up: {error}", file=sys.stderr)
        return 1
    finally:
        directory.unlock()
    return 0


def _log_to(file: Path) -> None:
    handlers: Sequence[logging.Handler] = (logging.StreamHandler(), logging.FileHandler(file))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers)


if __name__ == "__main__":
    sys.exit(main())
