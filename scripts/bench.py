"""Measures the store. Each figure is compared with a floor or with another checkout, measured in the same run.

    scripts/run bench [append|read|context|stream|rebuild|memory|access|neighbour|search|lists|branches|files|all] [--against DIR] [--pairs 5] [--seconds 4]

It starts stores of its own in new directories, and removes them. A floor is usually the least work that any store must
do. `docs/benchmarks/README.md` explains each figure.

Exit status: 0 done; 2 wrong usage; 3 something could not be measured (the rest is still shown); 130 interrupted.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
import psutil
import psycopg
import structlog
import typer
from pymongo.errors import PyMongoError

from scripts.benchmarks import ROOT
from scripts.benchmarks.append import Append
from scripts.benchmarks.bench_store import BenchStore, DidNotStart, commit_of, durability, machine
from scripts.benchmarks.benchmark import (
    Benchmark,
    Sizes,
    compare_with_checkout,
    compare_with_floors,
    compare_with_plain,
)
from scripts.benchmarks.branches import Branches
from scripts.benchmarks.context import Context
from scripts.benchmarks.figures import Results, show
from scripts.benchmarks.files import Files
from scripts.benchmarks.lists import Lists
from scripts.benchmarks.memory import Memory
from scripts.benchmarks.neighbour import Neighbour
from scripts.benchmarks.read import Read
from scripts.benchmarks.rebuild import Rebuild
from scripts.benchmarks.requests import RequestFailed
from scripts.benchmarks.search import Search
from scripts.benchmarks.stream import Stream
from scripts.progress import progress

USAGE_ERROR, FAILED, INTERRUPTED = 2, 3, 130

_PROBLEMS = (
    *(DidNotStart, RequestFailed, OSError, subprocess.CalledProcessError),
    *(psycopg.Error, PyMongoError, psutil.Error),
)


class BenchmarkName(StrEnum):
    APPEND = "append"
    READ = "read"
    CONTEXT = "context"
    STREAM = "stream"
    REBUILD = "rebuild"
    MEMORY = "memory"
    ACCESS = "access"
    NEIGHBOUR = "neighbour"
    SEARCH = "search"
    LISTS = "lists"
    BRANCHES = "branches"
    FILES = "files"
    ALL = "all"


BENCHMARKS: Mapping[BenchmarkName, type[Benchmark]] = MappingProxyType(
    {
        BenchmarkName.APPEND: Append,
        BenchmarkName.READ: Read,
        BenchmarkName.CONTEXT: Context,
        BenchmarkName.STREAM: Stream,
        BenchmarkName.REBUILD: Rebuild,
        BenchmarkName.MEMORY: Memory,
        BenchmarkName.ACCESS: Append,
        BenchmarkName.NEIGHBOUR: Neighbour,
        BenchmarkName.SEARCH: Search,
        BenchmarkName.LISTS: Lists,
        BenchmarkName.BRANCHES: Branches,
        BenchmarkName.FILES: Files,
    }
)


def measure(what: BenchmarkName, sizes: Sizes, pairs: int, against: Path | None, *, quiet: bool = False) -> Results:
    """Runs the benchmarks one after the other, each on new stores. If a benchmark fails, the other benchmarks are still run."""
    benchmarks = [(name, make(sizes)) for name, make in BENCHMARKS.items() if what in (name, BenchmarkName.ALL)]
    turns = sum(2 if benchmark.measured_once else 2 * pairs for _, benchmark in benchmarks)
    done = 0
    results = Results(
        trees={"this checkout": commit_of(ROOT)} | ({"the other checkout": commit_of(against)} if against else {}),
        machine=machine(),
        durability={},
        pairs=pairs,
        seconds=sizes.seconds,
        figures=[],
        problems=[],
    )

    def turn_done() -> None:
        nonlocal done
        done += 1
        report(done, turns)

    def inspect(store: BenchStore) -> None:
        results.durability.update(durability(store))

    with progress("Turns measured", quiet=quiet) as report:
        for name, benchmark in benchmarks:
            own_pairs = 1 if benchmark.measured_once else pairs
            try:
                if name is BenchmarkName.ACCESS:
                    results.figures.extend(compare_with_plain(benchmark, own_pairs, inspect, turn_done))
                elif against is None:
                    results.figures.extend(compare_with_floors(benchmark, own_pairs, inspect, turn_done))
                else:
                    results.figures.extend(compare_with_checkout(benchmark, own_pairs, against, inspect, turn_done))
            except _PROBLEMS as problem:
                results.problems.append(f"{name}: {type(problem).__name__}: {problem}")
    return results


def main(
    what: Annotated[BenchmarkName, typer.Argument(help="What to measure.")] = BenchmarkName.ALL,
    *,
    against: Annotated[Path | None, typer.Option(help="Another checkout to compare this one with.")] = None,
    pairs: Annotated[
        int, typer.Option(min=1, help="How many times each side is measured (memory: once). Figures are medians.")
    ] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.2, help="How long a load lasts. Some benchmarks take half of it, or a multiple.")
    ] = Sizes().seconds,
    out: Annotated[Path | None, typer.Option(help="Write the results to this file, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measures the store, and compares each figure with a floor of the same run, or with another checkout."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the results
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops the stores as Ctrl-C does
    if against is not None and not (against / "scripts" / "up").is_file():
        _stop(f"{against} is not a checkout of the store: it has no scripts/up", USAGE_ERROR)
    try:
        results = measure(what, Sizes(seconds=seconds), pairs, against and against.resolve(), quiet=as_json)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _stop("interrupted", INTERRUPTED)
    text = msgspec.json.format(msgspec.json.encode(results), indent=1).decode()
    if out is not None:
        out.write_text(f"{text}\n")
    if as_json:
        print(text)
    elif results.figures:
        show(results)
    if results.problems:
        _stop("\n".join(results.problems), FAILED)


def _stop(message: str, status: int) -> None:
    print(f"scripts.bench: {message}", file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
