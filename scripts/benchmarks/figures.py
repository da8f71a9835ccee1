"""The results of a run."""

import sys
from statistics import median
from typing import Any, Literal

from msgspec import Struct
from rich.console import Console
from rich.table import Table

Better = Literal["more", "less"]


class Measurement(Struct, frozen=True):
    name: str
    value: float
    unit: str
    floors: tuple[str, ...]
    better: Better = "less"


class Figure(Struct, frozen=True, kw_only=True):
    """A comparison.

    `values`, `others`: the first and the second value of each pair. `value`, `other`, `ratio`: medians.
    """

    name: str
    unit: str
    better: Better
    value: float
    values: list[float]
    compared_with: str
    other: float
    others: list[float]
    ratio: float
    ratios: list[float]


class Results(Struct, frozen=True, kw_only=True):
    """What a run has measured.

    `trees`: the commit of each checkout. `problems`: what could not be measured, and why.
    """

    trees: dict[str, str]
    machine: dict[str, Any]
    durability: dict[str, Any]
    pairs: int
    seconds: float
    figures: list[Figure]
    problems: list[str]


def figure(pairs: list[tuple[Measurement, float]], compared_with: str) -> Figure:
    first = pairs[0][0]
    values, others = [measured.value for measured, _ in pairs], [other for _, other in pairs]
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return Figure(
        name=first.name,
        unit=first.unit,
        better=first.better,
        value=_rounded(median(values)),
        values=[_rounded(value) for value in values],
        compared_with=compared_with,
        other=_rounded(median(others)),
        others=[_rounded(other) for other in others],
        ratio=_rounded(median(ratios)),
        ratios=[_rounded(ratio) for ratio in ratios],
    )


def _rounded(number: float) -> float:
    """To four significant digits."""
    return float(f"{number:.4g}")


def show(results: Results) -> None:
    """Prints a table. The machine and the durability settings are only in the JSON."""
    table = Table("", "median", "compared with", "median", "ratio", "lowest", "highest", "better", title_justify="left")
    trees = ", ".join(f"{name} is {commit}" for name, commit in results.trees.items())
    table.title = f"Medians of {results.pairs} pairs; {trees}"
    for row in results.figures:
        value, other = (f"{number:,.4g} {row.unit}" for number in (row.value, row.other))
        ratios = (f"{ratio:.2f}x" for ratio in (row.ratio, min(row.ratios), max(row.ratios)))
        table.add_row(row.name, value, row.compared_with, other, *ratios, row.better)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
