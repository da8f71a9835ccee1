"""Measures the store, each figure beside a floor of the same run: `python -m scripts.bench [append|read|stream|context|rebuild|all]`.

It starts a store of its own for that, on a directory that it removes again. With `--data DIR` it measures the one that runs there, and
deletes the conversations it made; their events stay. Two api processes, and the memory of one, are measured on stores of their own
either way. `append` measures how fast events are written, `read` how soon they are shown and how fast they are read, `all` both, and the
memory of all processes. `stream` measures how soon a reply speaks, `context` what assembling a context costs as a conversation
grows; `rebuild` loads the chitchat dataset, and measures a rebuild of it, alone and while it is used; these three are not part of `all`.

A ratio says more than a figure: one machine's figures swing from run to run, and what is beside it swings along.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
import uvloop
from msgspec import Struct

from scripts import store_location
from scripts.benchmarks import in_process, rebuilding, site, streaming, under_rebuild, visibility
from scripts.benchmarks.assembling import Assembling
from scripts.benchmarks.client import NotAnswered
from scripts.benchmarks.figures import Board, Results, show
from scripts.benchmarks.flat import LONG, Flat
from scripts.benchmarks.memory import CONVERSATIONS, Memory
from scripts.benchmarks.over_http import OverHttp, begin_conversations, delete_conversations
from scripts.benchmarks.reading import Reading
from scripts.benchmarks.two_apis import TwoApis
from scripts.progress import Report, progress
from scripts.stores import INTERRUPTED, STORE_UNAVAILABLE, USAGE_ERROR, JsonOption


class What(StrEnum):
    """What to measure."""

    APPEND = "append"
    READ = "read"
    STREAM = "stream"
    CONTEXT = "context"
    REBUILD = "rebuild"
    ALL = "all"


class Sizes(Struct, frozen=True, kw_only=True):
    """How much is measured: for so many `seconds` each, `runs` times, with `long` items, and memory with `conversations`."""

    seconds: float
    runs: int
    long: int
    conversations: int


def measure(what: What, data: Path, sizes: Sizes, *, quiet: bool) -> Results:
    """Everything in turn. The store in `data` runs already."""
    settings, base_url = store_location.settings(data), store_location.base_url(data)
    board = Board()
    machine, durability = site.machine(), site.durability(settings)
    with progress("Measuring, runs", quiet=quiet) as report:
        if what in (What.APPEND, What.ALL):
            _append(board, data, sizes, report)
        if what in (What.READ, What.ALL):
            _read(board, data, sizes, report)
        if what is What.STREAM:
            _stream(board, sizes)
        if what is What.CONTEXT:
            _context(board, data, sizes, report)
        if what is What.REBUILD:
            rebuilding.load(data)
            for number in range(sizes.runs):
                report(number, sizes.runs)
                uvloop.run(rebuilding.run(board, settings, data))
                uvloop.run(under_rebuild.run(board, base_url, data, sizes.seconds))
        report(sizes.runs, sizes.runs)
    memory = site.memory(data) if what in (What.REBUILD, What.ALL) else {}
    return Results(machine, durability, board.figures(), memory)


def _append(board: Board, data: Path, sizes: Sizes, report: Report) -> None:
    settings, base_url = store_location.settings(data), store_location.base_url(data)
    for _ in range(sizes.runs):  # first of all: the servers have nothing else to do yet
        with site.scratch_database(settings) as postgres_url:
            in_process.run(board, postgres_url, sizes.seconds)
    with _conversations(base_url) as idents, site.floor_server("noop") as noop_url:
        over_http = OverHttp(base_url, noop_url, idents, data, sizes.seconds)
        for number in range(sizes.runs):
            report(number, sizes.runs)
            over_http.run(board)
    with site.scratch_database(settings) as postgres_url:
        flat = Flat(postgres_url, sizes.long)
        uvloop.run(flat.prepare())
        for _ in range(sizes.runs):
            uvloop.run(flat.run(board))
    with site.own_store("--apis", "2") as second:
        two_apis = TwoApis(site.api_urls(second))
        uvloop.run(two_apis.prepare())
        for _ in range(sizes.runs):
            uvloop.run(two_apis.run(board))
    with site.own_store() as third:
        uvloop.run(Memory(third, sizes.conversations, sizes.long).run(board))


def _read(board: Board, data: Path, sizes: Sizes, report: Report) -> None:
    settings, base_url = store_location.settings(data), store_location.base_url(data)
    with (
        site.floor_server("floor_context", settings) as floor_url,
        _conversations(base_url) as idents,
    ):
        reading = Reading(base_url, floor_url, settings, sizes.long, sizes.seconds)
        try:
            uvloop.run(reading.prepare())
            for number in range(sizes.runs):
                report(number, sizes.runs)
                uvloop.run(reading.run(board))
                visibility.run(board, data, idents, sizes.seconds)
        finally:
            uvloop.run(reading.delete())


def _stream(board: Board, sizes: Sizes) -> None:
    with site.floor_server("provider") as provider_url, site.own_store(provider=provider_url) as place:
        [base_url] = site.api_urls(place)
        for _ in range(sizes.runs):
            uvloop.run(streaming.run(board, provider_url, base_url, site.process(place, "api"), sizes.seconds))


def _context(board: Board, data: Path, sizes: Sizes, report: Report) -> None:
    settings = store_location.settings(data)
    with site.scratch_database(settings) as postgres_url:
        assembling = Assembling(settings, postgres_url, sizes.long)
        try:
            uvloop.run(assembling.prepare())
            for number in range(sizes.runs):
                report(number, sizes.runs)
                uvloop.run(assembling.run(board))
        finally:
            uvloop.run(assembling.delete())


@contextmanager
def _conversations(base_url: str) -> Iterator[list[str]]:
    """Empty conversations to append to, deleted at the end."""
    idents = uvloop.run(begin_conversations(base_url))
    try:
        yield idents
    finally:
        uvloop.run(delete_conversations(base_url, idents))


def main(
    what: Annotated[What, typer.Argument(help="what to measure")] = What.ALL,
    *,
    data: Annotated[Path | None, typer.Option(help="measure the store that runs there, not one of its own")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long each thing is measured, each run")] = 5.0,
    runs: Annotated[int, typer.Option(min=1, help="how often; the median counts")] = 3,
    long: Annotated[int, typer.Option(min=100, help="items of a long conversation")] = LONG,
    conversations: Annotated[
        int, typer.Option(min=1, help="active conversations while memory is measured, which is done once")
    ] = CONVERSATIONS,
    as_json: JsonOption = False,
) -> None:
    """Measures the store, each figure beside a floor of the same run."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the result
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped
    try:
        with ExitStack() as stack:
            place = data or stack.enter_context(site.own_store())
            sizes = Sizes(seconds=seconds, runs=runs, long=long, conversations=conversations)
            results = measure(what, place, sizes, quiet=as_json)
    except store_location.NotRunning as problem:
        _stop(str(problem), USAGE_ERROR)
    except site.DidNotStart as problem:
        _stop(f"the store did not start:\n{problem}", STORE_UNAVAILABLE)
    except (OSError, subprocess.CalledProcessError, NotAnswered, streaming.BrokeOff, visibility.NotVisible) as problem:
        _stop(f"{type(problem).__name__}: {problem}", STORE_UNAVAILABLE)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _stop("interrupted", INTERRUPTED)
    if as_json:
        print(msgspec.json.encode(results).decode())
    else:
        show(results)


def _stop(message: str, status: int) -> None:
    print(f"scripts.bench: {message}", file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
