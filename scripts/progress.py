"""How far long work is: a bar on a terminal, a plain line every few seconds elsewhere. On stderr; stdout is for the result."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 5.0


class Told:
    """Use it as a context manager. `total` None: it is not known how much there is."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._note = ""
        self._line_at = time.monotonic() + LINE_SECONDS
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=console) if console.is_terminal else None
        self._task = self._bar.add_task(what, total=total, note="") if self._bar else None

    def at(self, done: int, note: str = "") -> None:
        """So much is done. Cheap enough to be called for every little piece."""
        self._done = done
        self._note = note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() >= self._line_at:
            self._say()

    def _say(self) -> None:
        self._line_at = time.monotonic() + LINE_SECONDS
        total = "" if self._total is None else f" of {self._total:,}"
        note = f" ({self._note})" if self._note else ""
        print(f"{self._what}: {self._done:,}{total}{note}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._say()
