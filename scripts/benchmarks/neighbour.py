"""How much a quiet tenant is delayed by another tenant's heaviest load, with the recommended limits."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import msgspec
import uvloop

from scripts.benchmarks import ROOT
from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.neighbour_client import KINDS, QuietLoad, QuietScore
from scripts.benchmarks.requests import RequestFailed, request
from scripts.benchmarks.worst_client import WorstLoad
from scripts.http_connection import Connection

ALONE = "the same while nobody else uses the store"
USERS = 6
"""Each tenant has this many users. A user of the quiet tenant stays below the user's limits."""


class Neighbour(Benchmark):
    settings: ClassVar[Mapping[str, str]] = {"AUTH_MODE": "keys", "RATE_LIMITS": "recommended"}

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._alone: dict[str, float] = {}
        self._users: dict[str, list[str]] = {}
        self._paths: list[str] = []

    def prepare(self, store: BenchStore) -> None:
        self._users = {
            tenant: [store.url_with_key(tenant, f"user-{number}") for number in range(USERS)]
            for tenant in ("quiet", "worst")
        }
        self._paths = [uvloop.run(_new_conversation(url)) for url in self._users["quiet"]]

    def measure(self, store: BenchStore) -> list[Measurement]:  # noqa: ARG002 - the URLs are those of the users
        quiet = QuietLoad(base_urls=self._users["quiet"], paths=self._paths, seconds=5 * self.sizes.seconds)
        self._alone = _send(quiet)
        with _worst(WorstLoad(self._users["worst"])):
            beside = _send(quiet)
        return [
            Measurement(f"{kind} beside a tenant that does its worst, p99", beside[kind], "ms", (f"{ALONE}: {kind}",))
            for kind in KINDS
        ]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - `measure` has measured them
        return {f"{ALONE}: {kind}": self._alone[kind] for kind in KINDS}


async def _new_conversation(base_url: str) -> str:
    connection = await Connection.open(base_url)
    answer = await request(connection, "POST", "/v1/conversations", b"{}")
    connection.close()
    return f"/v1/conversations/{answer.json()['id']}"


def _command(name: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", f"scripts.benchmarks.{name}")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _send(quiet: QuietLoad) -> dict[str, float]:
    """The p99 of each kind, in ms. Raises RequestFailed if a request failed, or if a page lacked the newest append."""
    done = subprocess.run(  # noqa: S603 - our own command
        _command("neighbour_client"),
        input=msgspec.json.encode(quiet),
        capture_output=True,
        check=False,
        env=_environment(),
    )
    if done.returncode:
        raise RequestFailed(done.stderr.decode().strip().rpartition("\n")[2])
    return msgspec.json.decode(done.stdout, type=QuietScore).p99_ms


@contextmanager
def _worst(worst: WorstLoad) -> Iterator[None]:
    """Raises RequestFailed if the client ends before its load runs."""
    with subprocess.Popen(  # noqa: S603 - our own command
        _command("worst_client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(worst))
        process.stdin.close()
        try:
            if process.stdout.readline() != b"ready\n":
                raise RequestFailed("the client of the tenant that does its worst has ended")
            yield
        finally:
            process.terminate()
