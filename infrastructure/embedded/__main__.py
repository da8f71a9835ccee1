"""Runs the stores alone, until SIGTERM or Ctrl-C. Use it for tests, or when an API runs in a debugger.

    python -m infrastructure.embedded --data DIR [--only POSTGRES_URL …] [--until PID] [--remove]

It writes the URLs of the stores to `DIR/run/env` once all stores serve requests.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import sys
import threading
from pathlib import Path

import psutil

from infrastructure.embedded.account import UnreachableError
from infrastructure.embedded.directory import DataDirectory, InUseError
from infrastructure.embedded.lifetime import run_until, stop_signalled
from infrastructure.embedded.service import NotInstalledError
from infrastructure.embedded.stores import SERVERS, STORES, choose
from infrastructure.embedded.supervisor import DoesNotStartError, Supervisor


async def run(directory: DataDirectory, variables: frozenset[str], until_pid: int | None) -> None:
    """Runs until a signal, the end of the process `until_pid`, or the failure of a server."""
    stop = stop_signalled()
    if until_pid is not None:
        threading.Thread(target=_wait_for_end, args=(until_pid, asyncio.get_running_loop(), stop), daemon=True).start()
    services, urls = choose(directory, {}, variables)
    supervisor = Supervisor(directory, os.environ)

    async def work() -> None:
        supervisor.start(services)
        await supervisor.wait_until_serving(services)
        directory.write_env(urls)
        await supervisor.wait_for_failure()

    try:
        await run_until(stop, work())
    finally:
        await supervisor.stop([services])
        directory.remove_run_files()


def _wait_for_end(pid: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    with contextlib.suppress(RuntimeError):  # the loop may be closed already
        loop.call_soon_threadsafe(stop.set)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".data"), metavar="DIR", help="the data directory (./.data)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SERVERS),
        default=sorted(STORES),
        help="run only the servers whose URLs these variables hold",
    )
    parser.add_argument("--until", type=int, help="stop when the process with this pid ends")
    parser.add_argument("--remove", action="store_true", help="remove the data at the end")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    directory = DataDirectory(arguments.data)
    locked = False
    try:
        directory.lock()
        locked = True
        asyncio.run(run(directory, frozenset(arguments.only), arguments.until))
    except (InUseError, NotInstalledError, UnreachableError, DoesNotStartError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if arguments.remove and locked:
            shutil.rmtree(directory.path)
        directory.unlock()
    return 0


if __name__ == "__main__":
    sys.exit(main())
