"""How long work shows where it is: a bar on a terminal, a plain line now and then elsewhere. On stderr, beside the result."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 5.0

Report = Callable[[int, int], None]
"""(done, total): how far the work is now."""


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Report]:
    """A function to report with while the work goes on. `quiet` shows nothing: somebody reads JSON."""
    if quiet:
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield from _lines(what)


def _bar(what: str) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Iterator[Report]:
    said = time.monotonic()
    latest = (0, 0)

    def report(done: int, total: int) -> None:
        nonlocal said, latest
        latest = (done, total)
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            _say(what, *latest)

    yield report
    _say(what, *latest)


def _say(what: str, done: int, total: int) -> None:
    share = f" ({100 * done // total} %)" if total else ""
    print(f"{what}: {done} of {total}{share}", file=sys.stderr, flush=True)
