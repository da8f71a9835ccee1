"""Measures the store, each figure beside a floor of the same run: `python -m scripts.bench [append|rebuild|all]`.

It starts a store of its own for that, on a directory that it removes again. With `--data DIR` it measures the one that runs there, and
deletes the conversations it made; their events stay. Two api processes, and the memory of one, are measured on stores of their own
either way. `append` leaves out the lag of the views, and the memory of all the other processes. `rebuild` loads the chitchat dataset, and measures a
rebuild of it; it is not part of `all`.

A ratio says more than a figure: one machine's figures swing from run to run, and what is beside it swings along.
"""

import asyncio
import signal
import subprocess
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
import uvloop

from scripts import running
from scripts.benchmarks import in_process, rebuilding, site, visibility
from scripts.benchmarks.client import NotAnswered
from scripts.benchmarks.figures import Board, Results, show
from scripts.benchmarks.flat import LONG, Flat
from scripts.benchmarks.memory import CONVERSATIONS, Memory
from scripts.benchmarks.over_http import OverHttp, begin_conversations, delete_conversations
from scripts.benchmarks.two_apis import TwoApis
from scripts.progress import progress
from scripts.stores import AWAY, INTERRUPTED, MISUSED, Json


class What(StrEnum):
    """What to measure."""

    APPEND = "append"
    REBUILD = "rebuild"
    ALL = "all"


def measure(
    what: What, data: Path, seconds: float, runs: int, long: int, *, conversations: int, quiet: bool
) -> Results:
    """Everything in turn, `runs` times. The store in `data` runs already."""
    settings, base_url = running.settings(data), running.base_url(data)
    board = Board()
    if what is What.REBUILD:
        rebuilding.load(data)
        for _ in range(runs):
            uvloop.run(rebuilding.run(board, settings))
        return Results(site.machine(), site.durability(settings), board.figures(), site.memory(data))
    with ExitStack() as stack:
        report = stack.enter_context(progress("Measuring, runs", quiet=quiet))
        noop_url = stack.enter_context(site.noop_server())
        idents = uvloop.run(begin_conversations(base_url))
        stack.callback(lambda: uvloop.run(delete_conversations(base_url, idents)))
        machine, durability = site.machine(), site.durability(settings)
        over_http = OverHttp(base_url, noop_url, idents, data, seconds)
        for number in range(runs):
            report(number, runs)
            over_http.run(board)
            if what is What.ALL:
                uvloop.run(visibility.run(board, base_url, settings, idents, seconds))
            with site.scratch_database(settings) as postgres_url:
                in_process.run(board, postgres_url, seconds)
        with site.scratch_database(settings) as postgres_url:
            flat = Flat(postgres_url, long)
            uvloop.run(flat.prepare())
            for _ in range(runs):
                uvloop.run(flat.run(board))
        with site.own_store("--apis", "2") as second:
            two_apis = TwoApis(site.api_urls(second))
            uvloop.run(two_apis.prepare())
            for _ in range(runs):
                uvloop.run(two_apis.run(board))
        with site.own_store() as third:
            uvloop.run(Memory(third, conversations, long).run(board))
        report(runs, runs)
        memory = site.memory(data) if what is What.ALL else {}
    return Results(machine, durability, board.figures(), memory)


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
    as_json: Json = False,
) -> None:
    """Measures the store, each figure beside a floor of the same run."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the result
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped
    try:
        with ExitStack() as stack:
            place = data or stack.enter_context(site.own_store())
            results = measure(what, place, seconds, runs, long, conversations=conversations, quiet=as_json)
    except running.NotRunning as problem:
        _stop(str(problem), MISUSED)
    except site.DidNotStart as problem:
        _stop(f"the store did not start:\n{problem}", AWAY)
    except (OSError, subprocess.CalledProcessError, NotAnswered, visibility.NotVisible) as problem:
        _stop(f"{type(problem).__name__}: {problem}", AWAY)
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
