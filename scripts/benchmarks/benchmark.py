"""What a benchmark is, and how two sides of it are measured by turns: a store and its floors, or the stores of two checkouts.

Machines swing two- or threefold between runs. Both sides of a pair see the same minute of the same machine, so their ratio says more
than either figure. Both stores run all the time, but only one is under load: a turn ends when its projector has caught up.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import uvloop
from msgspec import Struct

from scripts.benchmarks.bench_store import ROOT, BenchStore, bench_store
from scripts.benchmarks.figures import Figure, Measurement, figure
from scripts.benchmarks.floor_server import FloorServer, floor_server
from scripts.benchmarks.requests import caught_up

OTHER = "the other checkout"


class Sizes(Struct, frozen=True, kw_only=True):
    """How much is measured. `seconds`: the length of each load. The rest are numbers of things; see where they are used."""

    seconds: float = 4.0
    conversations: int = 1_000
    long_items: int = 10_000
    streams: int = 100
    dialogues: int = 1_000
    active_conversations: int = 5_000
    large_items: int = 20_000


class Benchmark(ABC):
    """Measures any number of stores. What must be the same for all of them, as a rate, is decided with the first."""

    measured_once: ClassVar[bool] = False

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @abstractmethod
    def prepare(self, store: BenchStore) -> None:
        """Fills a store that has just started. Called once for each."""

    @abstractmethod
    def measure(self, store: BenchStore) -> list[Measurement]:
        """Measures a store once."""

    @abstractmethod
    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        """Measures what `measure` named as floors, by name. Called after it."""


Pairs = dict[str, list[tuple[Measurement, float]]]


def beside_floors(
    benchmark: Benchmark, pairs: int, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """This checkout beside its floors."""
    measured: Pairs = {}
    with floor_server("provider", {}) as provider, bench_store(ROOT, provider.url) as store:
        inspect(store)
        with floor_server("floor_app", store.env) as floor:
            benchmark.prepare(store)
            for _ in range(pairs):
                found = _turn(benchmark, store, turn_done)
                floors = benchmark.floors(store, floor)
                turn_done()
                for each in found:
                    measured.setdefault(each.name, []).append((each, floors[each.floor]))
    return [figure(several, several[0][0].floor) for several in measured.values()]


def beside_checkout(
    benchmark: Benchmark, pairs: int, other: Path, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """This checkout beside another one."""
    measured: Pairs = {}
    with (
        floor_server("provider", {}) as provider,
        bench_store(ROOT, provider.url) as ours,
        bench_store(other, provider.url) as theirs,
    ):
        inspect(ours)
        benchmark.prepare(ours)
        benchmark.prepare(theirs)
        for _ in range(pairs):
            found, others = (_turn(benchmark, store, turn_done) for store in (ours, theirs))
            for each, beside in zip(found, others, strict=True):
                measured.setdefault(each.name, []).append((each, beside.value))
    return [figure(several, OTHER) for several in measured.values()]


def _turn(benchmark: Benchmark, store: BenchStore, turn_done: Callable[[], None]) -> list[Measurement]:
    found = benchmark.measure(store)
    uvloop.run(caught_up(store.base_url))
    turn_done()
    return found
