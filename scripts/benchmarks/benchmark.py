"""What a benchmark is, and how two sides of it are measured by turns: a store and its floors, or the stores of two checkouts.

Machines swing two- or threefold between runs. Both sides of a pair see the same minute of the same machine, so their ratio says more
than either figure. Both stores run all the time, but only one is under load: a turn ends when its projector has caught up.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import uvloop
from msgspec import Struct

from scripts.benchmarks import ROOT
from scripts.benchmarks.bench_store import BenchStore, bench_store
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
    reply_seconds: float = 4.0
    dialogues: int = 2_000
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


Pairs = defaultdict[tuple[str, str], list[tuple[Measurement, float]]]
"""What was measured beside what else, by the names of both."""


def beside_floors(
    benchmark: Benchmark, pairs: int, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """This checkout beside its floors."""
    measured: Pairs = defaultdict(list)
    with (
        floor_server("provider", {"REPLY_SECONDS": str(benchmark.sizes.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url) as store,
    ):
        inspect(store)
        with floor_server("floor_app", store.env) as floor:
            benchmark.prepare(store)
            for _ in range(pairs):
                found = _turn(benchmark, store, turn_done)
                floors = benchmark.floors(store, floor)
                turn_done()
                for each in found:
                    for name in each.floors:
                        measured[each.name, name].append((each, floors[name]))
    return [figure(several, name) for (_, name), several in measured.items()]


def beside_checkout(
    benchmark: Benchmark, pairs: int, other: Path, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """This checkout beside another one."""
    measured: Pairs = defaultdict(list)
    with (
        floor_server("provider", {"REPLY_SECONDS": str(benchmark.sizes.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url) as ours,
        bench_store(other, provider.url) as theirs,
    ):
        inspect(ours)
        benchmark.prepare(ours)
        benchmark.prepare(theirs)
        for number in range(pairs):
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)  # A B B A: neither side always goes first
            found = {store: _turn(benchmark, store, turn_done) for store in order}
            for measurement, beside in zip(found[ours], found[theirs], strict=True):
                measured[measurement.name, OTHER].append((measurement, beside.value))
    return [figure(several, name) for (_, name), several in measured.items()]


def _turn(benchmark: Benchmark, store: BenchStore, turn_done: Callable[[], None]) -> list[Measurement]:
    found = benchmark.measure(store)
    uvloop.run(caught_up(store.base_url))
    turn_done()
    return found
