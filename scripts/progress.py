"""Shows the progress of long work on stderr: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 5.0

Report = Callable[[int, int], None]
"""(done, total)"""


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Report]:
    """`quiet`: shows nothing."""
    if quiet:
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        yield from _bar(title)
    else:
        yield from _lines(title)


def _bar(title: str) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> Iterator[Report]:
    printed_at = time.monotonic()
    latest = (0, 0)

    def report(done: int, total: int) -> None:
        nonlocal printed_at, latest
        latest = (done, total)
        if time.monotonic() - printed_at >= LINE_SECONDS:
            printed_at = time.monotonic()
            _print(title, *latest)

    yield report
    _print(title, *latest)


def _print(title: str, done: int, total: int) -> None:
    percent = f" ({100 * done // total} %)" if total else ""
    print(f"{title}: {done} of {total}{percent}", file=sys.stderr, flush=True)
