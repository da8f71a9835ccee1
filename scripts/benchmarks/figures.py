"""The results: each figure with what it is compared with, measured in the same run."""

import sys
from statistics import median
from typing import Any, Literal

from msgspec import Struct
from rich.console import Console
from rich.table import Table

Better = Literal["more", "less"]


class Measurement(Struct, frozen=True):
    """One thing, measured once. `floors` names what it is compared with when no other checkout is measured."""

    name: str
    value: float
    unit: str
    floors: tuple[str, ...]
    better: Better = "less"


class Figure(Struct, frozen=True, kw_only=True):
    """One thing, measured several times beside something else. `ratio` is the median of `ratios`: value / other, pair by pair."""

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
    """One run of `scripts.bench`. `trees`: the commit of each checkout; `problems`: what could not be measured, and why."""

    trees: dict[str, str]
    machine: dict[str, Any]
    durability: dict[str, Any]
    pairs: int
    seconds: float
    figures: list[Figure]
    problems: list[str]


def figure(pairs: list[tuple[Measurement, float]], compared_with: str) -> Figure:
    """What several pairs of (a measurement, what it is compared with) come to."""
    first = pairs[0][0]
    values, others = [measured.value for measured, _ in pairs], [other for _, other in pairs]
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return Figure(
        name=first.name,
        unit=first.unit,
        better=first.better,
        value=_short(median(values)),
        values=[_short(value) for value in values],
        compared_with=compared_with,
        other=_short(median(others)),
        others=[_short(other) for other in others],
        ratio=_short(median(ratios)),
        ratios=[_short(ratio) for ratio in ratios],
    )


def _short(number: float) -> float:
    """With as many digits as a measurement deserves."""
    return float(f"{number:.4g}")


def show(results: Results) -> None:
    """Prints a table of the figures. What they were measured on is in the JSON alone."""
    table = Table("", "median", "compared with", "median", "ratio", "lowest", "highest", "better", title_justify="left")
    trees = ", ".join(f"{name} is {commit}" for name, commit in results.trees.items())
    table.title = f"Medians of {results.pairs} pairs; {trees}"
    for each in results.figures:
        value, other = (f"{number:,.4g} {each.unit}" for number in (each.value, each.other))
        ratios = (f"{ratio:.2f}x" for ratio in (each.ratio, min(each.ratios), max(each.ratios)))
        table.add_row(each.name, value, each.compared_with, other, *ratios, each.better)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
