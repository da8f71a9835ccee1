"""The base class of benchmarks, and how two sides are measured in turn.

The speed of a machine varies by a factor of two or three between runs. Both sides of a pair are measured one right
after the other, so their ratio says more than either figure.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import msgspec
import uvloop
from msgspec import Struct

from scripts.benchmarks import ROOT
from scripts.benchmarks.bench_store import BenchStore, bench_store
from scripts.benchmarks.figures import Figure, Measurement, figure
from scripts.benchmarks.floor_server import FloorServer, floor_server
from scripts.benchmarks.requests import wait_for_views

OTHER = "the other checkout"
WITHOUT = "the same without keys and limits"

KEYS_AND_LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AUTH_MODE": "keys",
        "RATE_LIMITS": msgspec.json.encode(
            {
                holder: {
                    "requests": 10**9,
                    "tokens": 10**9,
                    "replies": 10**6,
                    "followers": 10**6,
                    "tokens_a_month": 10**12,
                }
                for holder in ("tenant", "subject", "key")
            }
        ).decode(),
    }
)
"""No load reaches these limits."""


class Sizes(Struct, frozen=True, kw_only=True):
    """How much is measured. `seconds`: the length of a load; some benchmarks take half of it, or a multiple."""

    seconds: float = 4.0
    conversations: int = 1_000
    long_items: int = 10_000
    longest_items: int = 100_000
    branches: int = 1_000
    branch_samples: int = 30
    context_tokens: int = 128_000
    streams: int = 100
    reply_seconds: float = 4.0
    dialogues: int = 2_000
    searched_dialogues: int = 7_168
    active_conversations: int = 5_000
    large_items: int = 20_000
    listed_conversations: int = 100_000
    image_bytes: int = 2_000_000


class Benchmark(ABC):
    """Measures one or two stores.

    A value that must be the same for both stores, such as a request rate, is taken from the first store.
    """

    measured_once: ClassVar[bool] = False

    settings: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The settings of the store that is compared with floors."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @abstractmethod
    def prepare(self, store: BenchStore) -> None:
        """Called once for each store."""

    @abstractmethod
    def measure(self, store: BenchStore) -> list[Measurement]:
        pass

    @abstractmethod
    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:
        """Measures the floors that `measure` named. Called after `measure`."""


Pairs = defaultdict[tuple[str, str], list[tuple[Measurement, float]]]
"""By (measurement's name, other side's name): pairs of a measurement and the other side's value."""


def compare_with_floors(
    benchmark: Benchmark, pairs: int, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """Measures the store and its floors in turn. `inspect` gets the store before it is measured."""
    measured: Pairs = defaultdict(list)
    with (
        floor_server("provider", {"REPLY_SECONDS": str(benchmark.sizes.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url, benchmark.settings) as store,
    ):
        inspect(store)
        with floor_server("floor_app", store.env) as floor:
            benchmark.prepare(store)
            for _ in range(pairs):
                measurements = _turn(benchmark, store, turn_done)
                floors = benchmark.floors(store, floor)
                turn_done()
                for measurement in measurements:
                    for name in measurement.floors:
                        measured[measurement.name, name].append((measurement, floors[name]))
    return [figure(pairs_of_figure, name) for (_, name), pairs_of_figure in measured.items()]


def compare_with_checkout(
    benchmark: Benchmark, pairs: int, other: Path, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    with (
        floor_server("provider", {"REPLY_SECONDS": str(benchmark.sizes.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url) as ours,
        bench_store(other, provider.url) as theirs,
    ):
        inspect(ours)
        return _compare(benchmark, pairs, ours, theirs, their_name=OTHER, turn_done=turn_done)


def compare_with_plain(
    benchmark: Benchmark, pairs: int, inspect: Callable[[BenchStore], None], turn_done: Callable[[], None]
) -> list[Figure]:
    """Compares a store that has keys and limits with a store that has neither."""
    with (
        floor_server("provider", {"REPLY_SECONDS": str(benchmark.sizes.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url, KEYS_AND_LIMITS) as ours,
        bench_store(ROOT, provider.url) as plain,
    ):
        inspect(ours)
        return _compare(benchmark, pairs, ours, plain, their_name=WITHOUT, turn_done=turn_done)


def _compare(
    benchmark: Benchmark,
    pairs: int,
    ours: BenchStore,
    theirs: BenchStore,
    *,
    their_name: str,
    turn_done: Callable[[], None],
) -> list[Figure]:
    measured: Pairs = defaultdict(list)
    benchmark.prepare(ours)
    benchmark.prepare(theirs)
    for number in range(pairs):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)  # A B B A: neither side always goes first
        measurements = {store: _turn(benchmark, store, turn_done) for store in order}
        for our_measurement, their_measurement in zip(measurements[ours], measurements[theirs], strict=True):
            measured[our_measurement.name, their_name].append((our_measurement, their_measurement.value))
    return [figure(pairs_of_figure, name) for (_, name), pairs_of_figure in measured.items()]


def _turn(benchmark: Benchmark, store: BenchStore, turn_done: Callable[[], None]) -> list[Measurement]:
    measurements = benchmark.measure(store)
    uvloop.run(wait_for_views(store.base_url))
    turn_done()
    return measurements
