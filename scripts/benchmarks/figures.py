"""What a benchmark found: figures beside their floors of the same run, and how they are shown."""

import sys
from statistics import median
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.table import Table


class Figure(Struct, frozen=True, kw_only=True):
    """One measured thing: the median of its runs, and of its ratio to the `floor` beside it in each run (None: it is one)."""

    name: str
    unit: str
    value: float
    runs: list[float]
    floor: str | None = None
    ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


class Results(Struct):
    """All of one run of `scripts.bench`. Memory is in bytes, by process."""

    machine: dict[str, Any]
    durability: dict[str, Any]
    figures: list[Figure]
    memory: dict[str, dict[str, int]]


class Series(Struct):
    """The runs of one thing while they are made."""

    name: str
    unit: str
    floor: str | None = None
    values: list[float] = []
    p50_ms: list[float] = []
    p99_ms: list[float] = []

    def figure(self, others: dict[str, "Series"]) -> Figure:
        below = others[self.floor].values if self.floor else None
        return Figure(
            name=self.name,
            unit=self.unit,
            value=round(median(self.values), 2),
            runs=[round(value, 2) for value in self.values],
            floor=self.floor,
            ratio=round(median(a / b for a, b in zip(self.values, below, strict=True)), 3) if below else None,
            p50_ms=round(median(self.p50_ms), 3) if self.p50_ms else None,
            p99_ms=round(median(self.p99_ms), 3) if self.p99_ms else None,
        )


class Board:
    """Collects the runs of everything, in the order in which things were first measured."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}

    def add(
        self,
        name: str,
        value: float,
        *,
        floor: str | None = None,
        unit: str = "/s",
        p50_ms: float | None = None,
        p99_ms: float | None = None,
    ) -> None:
        series = self._series.setdefault(name, Series(name, unit, floor))
        series.values.append(value)
        if p50_ms is not None and p99_ms is not None:
            series.p50_ms.append(p50_ms)
            series.p99_ms.append(p99_ms)

    def figures(self) -> list[Figure]:
        return [series.figure(self._series) for series in self._series.values()]


def show(results: Results) -> None:
    """Prints tables."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for title, facts in (("Machine", results.machine), ("Durable settings in force", results.durability)):
        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in facts.items():
            table.add_row(name, str(value))
        console.print(table)
    table = Table("", "median", "of its floor", "floor", "p50 ms", "p99 ms", title="Figures", title_justify="left")
    for figure in results.figures:
        value = f"{figure.value:,.0f} {figure.unit}" if figure.value >= 100 else f"{figure.value:,.1f} {figure.unit}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}x"
        table.add_row(figure.name, value, ratio, figure.floor or "", _short(figure.p50_ms), _short(figure.p99_ms))
    console.print(table)
    table = Table("process", "PSS MB", "RSS MB", "processes", title="Memory", title_justify="left")
    for name, used in results.memory.items():
        table.add_row(name, f"{used['pss'] / 1e6:,.0f}", f"{used['rss'] / 1e6:,.0f}", str(used["processes"]))
    console.print(table)


def _short(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f}"
